"""A folder with too long a path for sockets is refused before anything is started."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from organism_flows.blocks.errors import StackError
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack.local import prepare_home
from organism_flows.deployments.stack.postgres.server import SOCKET_LIMIT

LONG = "x" * SOCKET_LIMIT


def test_a_long_home_has_its_sockets_in_a_short_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    home = prepare_home(Settings(home=tmp_path / LONG))
    assert home.is_dir()


def test_it_is_refused_where_the_temporary_folder_is_long_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / LONG))
    home = tmp_path / LONG
    with pytest.raises(StackError, match=rf"Ray's sockets .*{LONG}.* bytes longer than the 107") as refused:
        prepare_home(Settings(home=home))
    assert "a shorter ORGANISM_HOME" in refused.value.next_step
    assert not home.exists()
