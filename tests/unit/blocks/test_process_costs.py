"""What processes share or leave out, so that they start sooner and idle cheaper."""

from __future__ import annotations

import gc
import ssl

import pytest

from organism_flows.blocks.gc_tuning import YOUNG_OBJECTS, importing
from organism_flows.blocks.http_clients import _shared_context


def test_nothing_is_collected_while_modules_are_imported() -> None:
    before = gc.get_threshold()
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        with pytest.raises(ImportError), importing():
            raise ImportError
        assert gc.isenabled()
        assert gc.get_threshold()[0] == YOUNG_OBJECTS
        assert gc.get_freeze_count() > 0
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def test_clients_share_a_context_that_verifies() -> None:
    context = _shared_context(trust_env=False)
    assert _shared_context(trust_env=False) is context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
