"""Sends the events that tasks of a chaos run wait for, however often Postgres has to be asked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from uuid import UUID

from asyncpg import CheckViolationError

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from tests.chaos.workload import Planned, PlannedEvent
from tests.support.sql import pool_of

SEND = "INSERT INTO task_events (task_id, name, payload) VALUES ($1, $2, $3::jsonb)"
RETRY_S = 0.2


class Events:
    """The events of one run. They are sent in the order in which they are due.

    Args:
        queue: Where their tasks are.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._due: list[tuple[float, int, UUID, PlannedEvent]] = []
        self._order = count()
        self._some = asyncio.Event()

    def plan(self, submitted: Iterable[Planned]) -> None:
        """Send the events of these tasks, which were submitted just now."""
        now = time.monotonic()
        for planned in submitted:
            assert planned.task.id is not None
            for event in planned.events:
                heappush(self._due, (now + event.after_s, next(self._order), planned.task.id, event))
        self._some.set()

    async def send(self) -> None:
        """Send what is due; never returns."""
        while True:
            self._some.clear()
            wait_s = self._due[0][0] - time.monotonic() if self._due else None
            if wait_s is None or wait_s > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._some.wait(), wait_s)
                continue
            due, order, task, event = heappop(self._due)
            try:
                await pool_of(self._queue).execute(SEND, task, event.name, json.dumps(event.payload))
            except CheckViolationError:
                # What comes again may come after the end of its task.
                if event.payload != "again":
                    raise
            except TRANSIENT_ERRORS:
                # It may have been stored all the same: then it comes twice.
                heappush(self._due, (due, order, task, event))
                await asyncio.sleep(RETRY_S)
