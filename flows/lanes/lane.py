"""One lane: claim → call → settle, in plain asyncio.

A lane is the only writer about the tasks it claims. It holds a lease that its heartbeat renews, claims of
each type what its pace has room for, keeps calls to the organism in flight, settles outcomes as they stream
in, and leaves nothing behind: what it cannot finish it hands back uncharged. It knows neither Prefect nor
Ray, so everything it promises can be tried without them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.queue import Batch, Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from organism_flows.blocks.queue.db.listener import Listener
from organism_flows.flows.lanes.calls import Calls
from organism_flows.flows.lanes.lease import RETRY_S, Lease, Report
from organism_flows.flows.lanes.organism_protocol import OrganismCalls
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.lanes.windows import Windows

POLL_S = 5.0
"""Longest wait without looking: wake-ups come by NOTIFY, this only catches what it missed."""
LAST_TASKS_POLL_S = 0.5
GATHER_S = 0.01
"""Shortest time between two claims while calls are in flight: what arrives meanwhile is called together. At
200 tasks a second a claim and a call for each kept 1.7 of 2 processors busy, and tasks waited for those: p50
17 ms and p90 35 ms, with this 13 and 19 ms at 1.1 processors."""
MISSED_S = 0.05
"""Wait before claiming again what is due and could not be claimed: another lane has it locked."""
CLAIM_LIMIT = 2000
"""Most tasks of one claim: larger ones delay the first of their calls."""
TROUBLE: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, OrganismError)
BALANCE_S = 2.0
"""Between two looks at tasks that run, or wait, for long; replicas name them as often."""
STRAYS_EVERY = 12
"""Reaps between two that also look for tasks that no lane holds."""


@dataclass(slots=True)
class LaneSignals:
    """What happens in a lane, to be awaited instead of slept for."""

    claimed: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while nothing is in flight and the last claim found nothing."""


class Lane:
    """Runs tasks of one queue on one organism until it is to leave or to stop.

    A lane that leaves claims nothing more, hands back what no handler has begun with, and keeps its lease
    until its calls have ended, however long that takes. A lane that stops gives them its grace period.

    Args:
        queue: An open queue.
        organism: Where the tasks run.
        run: The dispatch run it belongs to; `Queue.request_stop` of that run stops it, and
            `Queue.request_leave` has it leave.
        number: Tells it apart from the other lanes of that run.
        batch_size: Most tasks one call carries.
        tasks_in_flight: Most tasks held at once; how many of each type there really are follows their pace.
        until_empty: Stop when nothing runs, is ready or waits for another attempt.
        max_seconds: Leave after this long; None: never.
        grace_s: On stop, how long calls in flight may still take before their handlers are stopped and their
            tasks handed back.
        relay: Its run is one of those that relieve one another.
        run_started_at: When its run began, by the database's clock.
        logger: Where its few lines go.
        on_settled: Called with the summary after each settlement.
    """

    def __init__(
        self,
        queue: Queue,
        organism: OrganismCalls,
        *,
        run: str | None = None,
        number: int | None = None,
        batch_size: int = 1000,
        tasks_in_flight: int = 6000,
        until_empty: bool = False,
        max_seconds: float | None = None,
        grace_s: float = 20.0,
        relay: bool = False,
        run_started_at: datetime | None = None,
        logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
        on_settled: Callable[[LaneSummary], None] = lambda _: None,
    ) -> None:
        self.queue = queue
        self.organism = organism
        self.until_empty = until_empty
        self.max_seconds = max_seconds
        self.grace_s = grace_s
        self.summary = LaneSummary(lane=f"lane-{uuid4().hex[:12]}")
        self.signals = LaneSignals()
        self._logger = logger or logging.getLogger("organism.lane")
        self._tell_settled = on_settled
        self._lease = Lease(
            queue,
            self.id,
            run=run,
            number=number,
            on_lost=self._lose,
            on_stop=self.stop,
            on_leave=self.leave,
            relay=relay,
            run_started_at=run_started_at,
        )
        self._lines = queue.claim_lines(self.id)
        self._pace = Windows(batch_size, tasks_in_flight)
        self._calls = Calls(
            queue,
            organism,
            self._lease,
            self._pace,
            self.summary,
            logger=self._logger,
            on_settled=self._settled,
            on_room=self._room_made,
        )
        self._notified = Listener(queue.direct_dsn)
        self._wake = self._notified.event
        self._crowded = False
        """There was more to claim than room for it."""
        self._claimed_at = -GATHER_S
        self._claiming = asyncio.Lock()
        self._unanswered = False
        """A claim went out and its answer did not come: we may hold what we do not know of."""
        self._leaving = asyncio.Event()
        self._stop = asyncio.Event()

    @property
    def id(self) -> str:
        """Fresh for every lane, so that a namesake can never pass for it."""
        return self.summary.lane

    def leave(self) -> None:
        """Stop claiming; `run` returns when what is in flight has ended."""
        self._leaving.set()
        self._wake.set()
        self._calls.organism_back.set()

    def stop(self) -> None:
        """Stop claiming; `run` returns when what is in flight has ended or the grace period is over."""
        self._stop.set()
        self.leave()

    async def run(self) -> LaneSummary:
        """Run until it is to stop or leave, empty, or out of time.

        Raises:
            LaneLost: The lease could not be renewed in time; nothing was written after that.
        """
        started = time.monotonic()
        await self._lease.open()
        self._logger.info("lane %s started", self.id)
        keepers = [
            self._keeper(self._lease.keep(self._report)),
            self._keeper(self._maintain()),
        ]
        try:
            async with self._notified:
                keepers.append(self._keeper(self._watch_cancellations()))
                keepers.append(self._keeper(self._watch_requests()))
                keepers.append(self._keeper(self._balance()))
                if self.max_seconds is not None:
                    keepers.append(self._keeper(self._leave_after(self.max_seconds)))
                await self._claim_until_leaving()
                await self._drain()
        finally:
            # Reached by cancellation too: hand everything back before leaving, whatever the reason.
            await self._calls.close()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            self.summary.seconds = time.monotonic() - started
            await self._leave()
        if self._lease.lost:
            raise self._lease.error()
        if self._calls.broken:
            raise self._calls.broken
        return self.summary

    # Claiming

    async def _claim_until_leaving(self) -> None:
        while not self._leaving.is_set():
            if self._wake.is_set() or self._lines.age_s >= POLL_S:
                self._wake.clear()
                self._lines.stale = True
            batch = await self._claim()
            if len(batch):
                self._calls.start(batch)
                if not self._lines.exhausted:
                    continue
            if self._leaving.is_set() or await self._wait_for_work(found=len(batch) > 0):
                return

    async def _claim(self) -> Batch:
        await self._calls.organism_back.wait()
        limit = min(self._pace.left, CLAIM_LIMIT)
        if self._leaving.is_set() or limit <= 0:
            return Batch()
        self._claimed_at = time.monotonic()
        async with self._claiming:
            try:
                batch = await self._lines.claim(limit, self._pace.room)
            except TRANSIENT_ERRORS as error:
                self._unanswered = True
                self._logger.warning("claim failed, trying again: %s", error)
                await asyncio.sleep(RETRY_S)
                return Batch()
            except asyncio.CancelledError:
                self._unanswered = True
                raise
            self._calls.holding.update(batch.claims)
        if len(batch):
            self.summary.claimed += len(batch)
            self.signals.idle.clear()
            self.signals.claimed.set()
        return batch

    async def _wait_for_work(self, *, found: bool) -> bool:
        """Wait until there may be something to claim. True: there will be nothing, and the lane may end.

        Args:
            found: The claim just made found something.
        """
        wait_s = POLL_S
        self._crowded = any(not self._pace.room(line.type) for line in self._lines)
        try:
            if self._lines.stale and self._lines.next_look_s <= 0:
                news = await self._lines.look()
                if (found or news) and any(line.due_s <= 0 for line in self._lines):
                    return False
            if self._lines.stale:
                wait_s = self._lines.next_look_s
            else:
                # What is due and was not claimed is locked by another lane, or waits for room.
                wait_s = min((line.due_s for line in self._lines), default=POLL_S) - self._lines.age_s
                wait_s = min(max(wait_s, MISSED_S), POLL_S)
            if self.until_empty and not self._calls.running:
                if (await self.queue.outlook()).empty:
                    return True
                # A task that somebody else runs may be the last one, and its settlement wakes nobody.
                wait_s = min(wait_s, LAST_TASKS_POLL_S)
        except TRANSIENT_ERRORS:
            wait_s = RETRY_S
        if not found and not self._calls.running:
            self.signals.idle.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        gather_s = self._claimed_at + GATHER_S - time.monotonic()
        if gather_s > 0 and self._calls.running and not self._leaving.is_set():
            # Until then, or until nothing is in flight any more.
            await asyncio.wait(list(self._calls.running), timeout=gather_s)
        return False

    def _report(self) -> Report:
        return Report(self.summary.settled, {**self.summary.figures, **self._calls.meter.figures})

    def _room_made(self) -> None:
        if self._calls.broken:
            self.stop()
        if self._crowded or (self.until_empty and not self._calls.running):
            self._wake.set()

    def _settled(self) -> None:
        self.signals.settled.set()
        self._tell_settled(self.summary)

    # Keeping house

    def _keeper(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start something that goes on as long as the lane does; the lane does not go on without it."""

        def ended(keeper: asyncio.Task[None]) -> None:
            if not keeper.cancelled() and (error := keeper.exception()) and not self._lease.lost:
                self._logger.error("the lane cannot go on", exc_info=error)
                self._calls.broken = self._calls.broken or error
                self.stop()

        keeper = asyncio.create_task(work)
        keeper.add_done_callback(ended)
        return keeper

    async def _maintain(self) -> None:
        """Take back what dead lanes held, and what the table says we hold and we do not know of."""
        for turn in count():
            # Under the lease like every write: a lane that thaws after it must not even reap itself.
            reap = partial(self.queue.reap, strays=turn % STRAYS_EVERY == 0)
            reaped = await self._lease.write(reap)
            if reaped.runs:
                self._logger.warning("took back %d tasks of lost lanes", len(reaped.runs))
                self._calls.stop_runs(reaped.runs)
            if self._unanswered:
                await self._lease.write(self._abandon)
            await asyncio.sleep(self._lease.interval)

    async def _abandon(self) -> None:
        async with self._claiming:
            abandoned = await self.queue.abandon(self.id, holding=list(self._calls.holding))
            self._unanswered = False
        if abandoned:
            self._logger.warning("handed back %d tasks of an unanswered claim", len(abandoned))

    async def _watch_cancellations(self) -> None:
        """Tell the organism which of our tasks are to be cancelled, wherever they run."""
        told: set[int] = set()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._notified.cancel.wait()
            self._notified.cancel.clear()
            if not self._calls.running:
                continue
            try:
                requested = await self.queue.cancel_requests(self.id)
                if news := {task: claim for claim, task in requested.items() if claim not in told}:
                    await self.organism.cancel(news)
                # No message reaches a replica that is being taken down; giving up the call on it does.
                self._calls.cut(told.intersection(requested))
                told = set(requested)
            except TROUBLE as error:
                self._logger.warning("cannot cancel tasks yet, trying again: %s", error)

    async def _watch_requests(self) -> None:
        """Learn at once that the lane is asked to stop or to leave; without notifications, by a renewal."""
        while True:
            await self._notified.asked.wait()
            self._notified.asked.clear()
            self._lease.renew_soon()

    async def _balance(self) -> None:
        """See to the tasks that run, or wait, for long."""
        while True:
            await asyncio.sleep(BALANCE_S)
            self._calls.balance()

    def _lose(self, why: str) -> None:
        """Cut every call off and write nothing more."""
        self._logger.error("lane %s lost its lease: %s", self.id, why)
        self._calls.cut_off()
        self.stop()

    # Leaving

    async def _leave_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.leave()

    async def _drain(self) -> None:
        """Wait for the calls in flight: until they have ended or, once the lane is to stop, for its grace."""
        if not self._calls.running or self._lease.lost:
            return
        self._lease.leaving = True
        self._logger.info("leaving: %d calls in flight", len(self._calls.running))
        stopped = asyncio.create_task(self._stop.wait())
        try:
            while self._calls.running and not self._stop.is_set():
                self._calls.recall()
                await asyncio.wait([*self._calls.running, stopped], timeout=BALANCE_S)
        finally:
            stopped.cancel()
        if self._calls.running and not self._lease.lost:
            self._logger.info(
                "stopping: %d calls in flight, %g s grace", len(self._calls.running), self.grace_s
            )
            self._calls.recall()
            await asyncio.wait(self._calls.running, timeout=self.grace_s)

    async def _leave(self) -> None:
        try:
            if not self._lease.lost and (self._unanswered or self._calls.broken):
                with suppress(*TRANSIENT_ERRORS):  # without a lease the next reap takes them back
                    await self.queue.abandon(self.id, holding=[])
            await self._lease.close()
        except TRANSIENT_ERRORS as error:
            self._logger.warning("could not close the lease, it will expire: %s", error)
        self._logger.info("lane %s ended: %s", self.id, self.summary)
