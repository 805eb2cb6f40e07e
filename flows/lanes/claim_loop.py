"""The loop of a lane that claims tasks, as many as its windows allow, and waits while there are none."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from organism_flows.blocks.queue import Batch, Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from organism_flows.blocks.queue.db.listener import Listener
from organism_flows.flows.lanes.calls import Calls
from organism_flows.flows.lanes.lease import RETRY_S
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.lanes.windows import Windows

POLL_S = 5.0
"""Longest wait between two reads of the queue, in seconds. NOTIFY announces work, but can be missed."""
LAST_TASKS_POLL_S = 0.5
GATHER_S = 0.01
"""Shortest time between two claims while calls are in flight, in seconds: tasks that arrive share a call.

At 200 tasks a second, a claim and a call for each task kept 1.7 of 2 processors busy, and tasks waited for
them: p50 17 ms and p90 35 ms. With this pause it is 13 and 19 ms at 1.1 processors.
"""
MISSED_S = 0.05
"""Wait before claiming due tasks again that could not be claimed, in seconds: another lane locks them."""
CLAIM_LIMIT = 2000
"""Upper bound on the tasks of one claim. A larger claim delays the first of its calls."""


@dataclass(slots=True)
class LaneSignals:
    """Events of a lane that others can await."""

    claimed: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while nothing is in flight and the last claim found nothing."""


class ClaimLoop:
    """Claims tasks for one lane and starts their calls.

    Args:
        queue: An open queue.
        calls: The calls of the lane.
        windows: The windows of the lane.
        summary: The counts of the lane.
        signals: The events of the lane.
        notified: Its event ends a wait: there may be tasks to claim, or the lane leaves.
        until_empty: End when no task runs, is ready or waits for another attempt.
        logger: Logger of the lane.
    """

    def __init__(
        self,
        queue: Queue,
        calls: Calls,
        windows: Windows,
        summary: LaneSummary,
        signals: LaneSignals,
        notified: Listener,
        *,
        until_empty: bool,
        logger: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._queue = queue
        self._calls = calls
        self._windows = windows
        self._summary = summary
        self._signals = signals
        self._wake = notified.event
        self._until_empty = until_empty
        self._logger = logger
        self._lines = queue.claims.lines(
            summary.lane,
            heard=notified.heard,
            holding=lambda: None if self.unanswered else calls.holding,
        )
        self._crowded = False
        """Some type with waiting tasks had no room in its window."""
        self._claimed_at = -GATHER_S
        self._claiming = asyncio.Lock()
        self.leaving = asyncio.Event()
        self.unanswered = False
        """The answer to a claim did not arrive: we may hold tasks that we do not know of."""

    def leave(self) -> None:
        """Claim nothing more; `run` returns."""
        self.leaving.set()
        self._wake.set()
        self._calls.organism_back.set()

    def room_made(self) -> None:
        """Claim again if tasks had to wait for the room that has become free."""
        if self._crowded or (self._until_empty and not self._calls.running):
            self._wake.set()

    async def run(self) -> None:
        """Claim tasks until the lane leaves or, with ``until_empty``, the queue is empty."""
        while not self.leaving.is_set():
            if self._wake.is_set() or self._lines.age_s >= POLL_S:
                self._wake.clear()
                self._lines.stale = True
            batch = await self._claim()
            if len(batch):
                self._calls.start(batch)
                if not self._lines.exhausted:
                    continue
            if self.leaving.is_set() or await self._wait_for_work(found=len(batch) > 0):
                return

    async def release_unanswered(self) -> None:
        """Hand back tasks that are the lane's only in the table, because a claim was not answered."""
        async with self._claiming:
            released = await self._queue.claims.release_unanswered(
                self._summary.lane, holding=list(self._calls.holding)
            )
            self.unanswered = False
        if released:
            self._logger.warning("handed back %d tasks of an unanswered claim", len(released))

    async def _claim(self) -> Batch:
        await self._calls.organism_back.wait()
        limit = min(self._windows.left, CLAIM_LIMIT)
        if self.leaving.is_set() or limit <= 0:
            return Batch()
        self._claimed_at = time.monotonic()
        async with self._claiming:
            try:
                batch = await self._lines.claim(limit, self._windows.room, self._windows.streams.of)
            except TRANSIENT_ERRORS as error:
                self.unanswered = True
                self._logger.warning("claim failed, trying again: %s", error)
                await asyncio.sleep(RETRY_S)
                return Batch()
            except asyncio.CancelledError:
                self.unanswered = True
                raise
            self._calls.holding.update(batch.claims)
        if len(batch):
            self._summary.claimed += len(batch)
            self._signals.idle.clear()
            self._signals.claimed.set()
        return batch

    async def _wait_for_work(self, *, found: bool) -> bool:
        """Wait until there may be tasks to claim. Return True if there will be none and the lane may end.

        Args:
            found: The last claim found tasks.
        """
        wait_s = POLL_S
        streams = {self._windows.streams.of(line.type, line.domain) for line in self._lines}
        self._crowded = not all(map(self._windows.room, streams)) or self._lines.limits.reached
        try:
            if self._lines.stale and self._lines.next_scan_s <= 0:
                news = await self._lines.scan()
                if (found or news) and any(line.due_s <= 0 for line in self._lines):
                    return False
            if self._lines.stale:
                wait_s = self._lines.next_scan_s
            else:
                # Tasks that are due and were not claimed are locked by another lane, or wait for room.
                # Those that a limit holds back wait until tasks that count against it have ended.
                due_s = min(
                    (line.due_s for line in self._lines if not (line.limited or line.held)), default=POLL_S
                )
                wait_s = due_s - self._lines.age_s
                wait_s = min(max(wait_s, MISSED_S), POLL_S)
            wait_s = min(wait_s, max(min(self._lines.limits.next_s, self._lines.turns.next_s), MISSED_S))
            if self._until_empty and not self._calls.running:
                if (await self._queue.reader.outlook()).empty:
                    return True
                # Another lane may run the last task, and its settlement sends no notification.
                wait_s = min(wait_s, LAST_TASKS_POLL_S)
        except TRANSIENT_ERRORS:
            wait_s = RETRY_S
        if not found and not self._calls.running:
            self._signals.idle.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        gather_s = self._claimed_at + GATHER_S - time.monotonic()
        if gather_s > 0 and self._calls.running and not self.leaving.is_set():
            # Wait until then, or until no call is in flight.
            await asyncio.wait(list(self._calls.running), timeout=gather_s)
        return False
