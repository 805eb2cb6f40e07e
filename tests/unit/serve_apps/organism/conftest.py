from __future__ import annotations

from collections.abc import Iterator

import pytest

from organism_flows.serve_apps.organism.execution.local.timeouts import Timeouts
from tests.support.organism import misbehaviour
from tests.support.organism.held_timeouts import HeldTimeouts


@pytest.fixture(autouse=True)
def fresh_misbehaviour() -> Iterator[None]:
    misbehaviour.reset()
    yield
    misbehaviour.RELEASE.set()


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> HeldTimeouts:
    held = HeldTimeouts()
    monkeypatch.setattr(Timeouts, "add", lambda self, item, timeout_s, now: held.add(self, item))
    monkeypatch.setattr(Timeouts, "discard", lambda self, item, timeout_s: held.discard(self, item))
    return held
