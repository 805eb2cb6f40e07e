"""Lists of failures, kept for a moment so that many boards cost as much as one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from organism_flows.blocks.queue.stores.board import Failures
from organism_flows.serve_apps.gateway.database import Database

KEPT_S = 5.0
LISTS_LIMIT = 100
"""Most lists that are kept. The oldest goes when there are more."""

Key: TypeAlias = tuple[str | None, str | None, datetime | None]


@dataclass(frozen=True)
class _Kept:
    reading: asyncio.Task[Failures]
    until: float


class FailureLists:
    """Reads groups of dead letters. All who ask for the same within `KEPT_S` share one read.

    Args:
        database: The queue.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[Key, _Kept] = {}

    async def get(
        self, *, type: str | None = None, domain: str | None = None, since: datetime | None = None
    ) -> Failures:
        """Return the newest dead letters that fit, in groups."""
        key = (type, domain, since)
        kept = self._kept.get(key)
        if kept is None or time.monotonic() >= kept.until or _failed(kept.reading):
            while len(self._kept) >= LISTS_LIMIT:
                del self._kept[next(iter(self._kept))]
            reads = self._database.queue.board
            reading = asyncio.create_task(reads.failures(type=type, domain=domain, since=since))
            kept = self._kept[key] = _Kept(reading, time.monotonic() + KEPT_S)
        return await asyncio.shield(kept.reading)

    def forget(self) -> None:
        """Read again for the next reader: somebody has just changed something."""
        self._kept.clear()


def _failed(reading: asyncio.Task[Failures]) -> bool:
    return reading.done() and (reading.cancelled() or reading.exception() is not None)
