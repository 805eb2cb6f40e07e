"""Timeouts of handler calls that pass when a test says so."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from organism_flows.serve_apps.organism.execution.local.timeouts import Timeouts
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism.helpers import Result, run
from tests.support.organism.misbehaviour import STARTED
from tests.support.stack import until


class HeldTimeouts:
    """Timeouts of handler calls that pass when a test says so.

    Where a handler must have come to some point before its time is over, no timeout is both short and
    certain: a thread may take a second to begin on a busy machine.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, Any], Timeouts[Any]] = {}
        self.calls: Counter[str] = Counter()
        """Calls made since the start of the test, by organ."""

    def add(self, timeouts: Timeouts[Any], item: Any) -> None:
        self._held[_organ(timeouts), item] = timeouts
        self.calls[_organ(timeouts)] += 1

    def discard(self, timeouts: Timeouts[Any], item: Any) -> None:
        self._held.pop((_organ(timeouts), item), None)

    def lapse(self, organ: str) -> None:
        """Let the time of the calls under way of an organ be over."""
        for (name, item), timeouts in list(self._held.items()):
            if name == organ and self._held.pop((name, item), None) is not None:
                timeouts._on_due(item)

    async def outlived(self, manager: OrganismManager, wire: dict[str, Any], organ: str) -> Result:
        """Run a batch; the handlers of ``organ``, counted in `misbehaviour.STARTED`, outlive their time."""
        running = asyncio.create_task(run(manager, wire))
        while not running.done():
            await until(
                lambda: (
                    running.done()
                    or (any(name == organ for name, _ in self._held) and self.calls[organ] == STARTED.total())
                )
            )
            self.lapse(organ)
        return await running


def _organ(timeouts: Timeouts[Any]) -> str:
    name: str = timeouts._on_due.__self__.config.id  # type: ignore[attr-defined]  # a method of a LocalOrgan
    return name
