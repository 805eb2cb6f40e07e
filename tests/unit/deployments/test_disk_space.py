"""Disks without room are named once each, and nothing is started or stopped on one."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from organism_flows.blocks import disk_space
from organism_flows.blocks.disk_space import full_disks
from organism_flows.blocks.errors import StackError
from organism_flows.blocks.queue.db.connection import unavailable
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.cli.main import _no_space, _of_postgres
from organism_flows.deployments.stack import local
from organism_flows.flows.verification.settings_checks import disks

pytestmark = pytest.mark.anyio


async def test_a_disk_without_room_is_named_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logs").mkdir()
    settings = Settings(home=tmp_path)
    monkeypatch.setattr(disk_space, "LOW_BYTES", 0)
    assert full_disks(tmp_path) == []
    assert disks(settings).status == "ok"
    monkeypatch.setattr(disk_space, "LOW_BYTES", 10**18)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    [line, *others] = full_disks(tmp_path)
    assert line.startswith(f"no space left on the disk of {tmp_path}: ")
    assert not [other for other in others if str(tmp_path) in other], "one disk, two lines"
    assert disks(settings).status == "failed"
    with pytest.raises(StackError, match="nothing was started or stopped → free some space"):
        await local.start(settings)


def test_a_postgres_without_room_is_no_defect() -> None:
    full = asyncpg.DiskFullError("could not extend file")
    assert _no_space(full).startswith("the disk of Postgres is full: could not extend file")
    assert "→ free some space" in str(unavailable("postgresql://h/d", full))
    assert "does not take this now" in _of_postgres(asyncpg.QueryCanceledError("cancelled"))
    assert "does not take this now" in _of_postgres(asyncpg.InterfaceError("connection is closed"))
    assert not _of_postgres(asyncpg.UndefinedTableError("no such table"))
    assert not _of_postgres(RuntimeError("a defect"))
