"""One lane: claim → call → settle, in plain asyncio.

Only the lane writes to the tasks that it has claimed. It holds a lease that its heartbeat renews. It claims
as many tasks of each type as its windows allow, keeps calls to the organism in flight, and settles outcomes
as they arrive. Tasks that it cannot finish it hands back with the attempt not charged. It uses neither
Prefect nor Ray, so it can be tested without them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import count
from math import inf
from typing import Any
from uuid import uuid4

from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from organism_flows.blocks.queue.db.listener import Listener
from organism_flows.flows.lanes.calls import Calls
from organism_flows.flows.lanes.claim_loop import POLL_S, ClaimLoop, LaneSignals
from organism_flows.flows.lanes.lease import Lease, Report
from organism_flows.flows.lanes.organism_protocol import OrganismCalls
from organism_flows.flows.lanes.replica_messages import ReplicaMessages
from organism_flows.flows.lanes.settle_batcher import SettleBatcher
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.lanes.task_spans import TaskSpans
from organism_flows.flows.lanes.windows import Windows

PASSING_ERRORS: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, OrganismError)
BALANCE_S = 2.0
"""Time between two checks of tasks that run or wait for long, in seconds. Replicas report them as often."""
STRAYS_EVERY = 12
"""One in so many reaps also takes back running tasks that no lane holds."""


class Lane:
    """Worker loop that runs tasks of one queue on one organism until it is asked to leave or to stop.

    A lane that leaves claims nothing more and hands back the tasks that no handler has begun. It keeps its
    lease until its calls have ended, however long that takes, unless it leaves within a time: then their
    handlers are asked to leave too. A lane that stops gives them its grace period.

    Args:
        queue: An open queue.
        organism: The organism that runs the tasks.
        run: Id of its dispatch run. `Queue.request_stop` of that run stops the lane, and
            `Queue.request_leave` makes it leave.
        number: Number of the lane within its run.
        batch_size: Upper bound on the tasks in one call.
        tasks_in_flight: Upper bound on the tasks in flight, all streams together.
        until_empty: Stop when no task runs, is ready or waits for another attempt.
        max_seconds: Leave after this time, in seconds; `None`: never.
        grace_s: On a stop, how long calls in flight may go on, in seconds. Then their handlers are stopped
            and their tasks handed back.
        relay: The run is one of those that relieve each other.
        run_started_at: Start of its run, by the database's clock.
        logger: Logger of its lines.
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
        self._on_settled = on_settled
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
        self._messages = ReplicaMessages(organism, self.id, self._logger)
        self._windows = Windows(batch_size, tasks_in_flight)
        spans = TaskSpans(self.id)
        self._calls = Calls(
            organism,
            SettleBatcher(queue, self._lease, self.summary, spans, self._logger, self._settled),
            self._messages,
            self._windows,
            self.summary,
            spans,
            logger=self._logger,
            on_room=self._room_made,
        )
        self._notified = Listener(queue.direct_dsn)
        self._claims = ClaimLoop(
            queue,
            self._calls,
            self._windows,
            self.summary,
            self.signals,
            self._notified,
            until_empty=until_empty,
            logger=self._logger,
        )
        self._stop = asyncio.Event()
        self._leave_by = inf
        """When its calls are cut off, by `time.monotonic`."""

    @property
    def id(self) -> str:
        """Return the id of the lane, unique to it, so no two lanes can be confused."""
        return self.summary.lane

    def leave(self, within_s: float = inf) -> None:
        """Stop claiming; `run` returns when the calls in flight have ended.

        Args:
            within_s: Time after which what still runs is stopped and handed back, in seconds. Its handlers
                are asked to leave by then. Without it they are not, and take as long as they take.
        """
        self._leave_by = min(self._leave_by, time.monotonic() + within_s)
        self._claims.leave()

    def stop(self) -> None:
        """Stop claiming; `run` returns when the calls in flight have ended or the grace period is over."""
        self._stop.set()
        self.leave()

    async def run(self) -> LaneSummary:
        """Run until asked to stop or leave, the queue is empty, or the time is over; return the counts.

        Raises:
            LaneLost: The lease could not be renewed in time. Nothing was written after that.
        """
        started = time.monotonic()
        await self._lease.open()
        self._logger.info("lane %s started", self.id)
        background = [self._background(self._lease.keep(self._report)), self._background(self._maintain())]
        try:
            async with self._notified:
                background.append(self._background(self._watch_cancellations()))
                background.append(self._background(self._watch_requests()))
                background.append(self._background(self._balance()))
                if self.max_seconds is not None:
                    background.append(self._background(self._leave_after(self.max_seconds)))
                await self._claims.run()
                await self._drain()
        finally:
            # A cancellation also comes through here: hand everything back, whatever the reason.
            await self._calls.close()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            self.summary.seconds = time.monotonic() - started
            await self._leave()
        if self._lease.lost:
            raise self._lease.error()
        if self._calls.broken:
            raise self._calls.broken
        return self.summary

    def _report(self) -> Report:
        counts = {**self.summary.figures, **self._calls.meter.figures}
        # Not a number, so it is no part of the sums over all lanes.
        return Report(self.summary.settled, {**counts, "windows": self._windows.sizes})

    def _room_made(self) -> None:
        if self._calls.broken:
            self.stop()
        self._claims.room_made()

    def _settled(self) -> None:
        self.signals.settled.set()
        self._on_settled(self.summary)

    # Background tasks

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a background task for the life of the lane. If it fails, the lane stops."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) and not self._lease.lost:
                self._logger.error("the lane cannot go on", exc_info=error)
                self._calls.broken = self._calls.broken or error
                self.stop()

        task = asyncio.create_task(work)
        task.add_done_callback(ended)
        return task

    async def _maintain(self) -> None:
        """Take back tasks of dead lanes, end those that expired, hand back what is ours only in the table."""
        for turn in count():
            # Under the lease like every write: a lane that was frozen past it must not even reap itself.
            reap = partial(self.queue.leases.reap, strays=turn % STRAYS_EVERY == 0)
            reaped = await self._lease.write(reap)
            if reaped.runs:
                self._logger.warning("took back %d tasks of lost lanes", len(reaped.runs))
                self._messages.stop_runs(reaped.runs)
            await self._lease.write(self.queue.maintenance.expire)
            if self._claims.unanswered:
                await self._lease.write(self._claims.release_unanswered)
            await asyncio.sleep(self._lease.interval)

    async def _watch_cancellations(self) -> None:
        """Ask the organism to cancel those of our tasks that are to be cancelled."""
        requested_before: set[int] = set()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._notified.cancel.wait()
            self._notified.cancel.clear()
            if not self._calls.running:
                continue
            try:
                requested = await self.queue.claims.cancel_requests(self.id)
                if new := {t: claim for claim, t in requested.items() if claim not in requested_before}:
                    await self.organism.cancel(new)
                # A replica that is being taken down gets no message, but it notices when its call is cut off.
                self._calls.cut(requested_before.intersection(requested))
                requested_before = set(requested)
            except PASSING_ERRORS as error:
                self._logger.warning("cannot cancel tasks yet, trying again: %s", error)

    async def _watch_requests(self) -> None:
        """Renew the lease at once when a request to stop or to leave is announced; the renewal brings it."""
        while True:
            await self._notified.asked.wait()
            self._notified.asked.clear()
            self._lease.renew_soon()

    async def _balance(self) -> None:
        """Hand back tasks that wait for long, and adjust windows to tasks that run for long."""
        while True:
            await asyncio.sleep(BALANCE_S)
            self._calls.balance()

    def _lose(self, why: str) -> None:
        """Cut off every call, and write nothing more."""
        self._logger.error("lane %s lost its lease: %s", self.id, why)
        self._calls.cut_off()
        self.stop()

    # Leaving

    async def _leave_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.leave()

    async def _drain(self) -> None:
        """Wait until the calls in flight have ended, or the time to leave is over.

        Once the lane is to stop, wait for its grace period.
        """
        if not self._calls.running or self._lease.lost:
            return
        self._lease.leaving = True
        self._logger.info("leaving: %d calls in flight", len(self._calls.running))
        stopped = asyncio.create_task(self._stop.wait())
        try:
            while self._calls.running and not self._stop.is_set():
                self._calls.recall()
                left_s = self._leave_by - time.monotonic()
                if left_s <= 0:
                    return
                if left_s < inf:
                    self._calls.ask_to_leave(left_s)
                await asyncio.wait([*self._calls.running, stopped], timeout=min(BALANCE_S, left_s))
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
            if not self._lease.lost and (self._claims.unanswered or self._calls.broken):
                with suppress(*TRANSIENT_ERRORS):  # without a lease the next reap takes them back
                    await self.queue.claims.release_unanswered(self.id, holding=[])
            await self._lease.close()
        except TRANSIENT_ERRORS as error:
            self._logger.warning("could not close the lease, it will expire: %s", error)
        self._logger.info("lane %s ended: %s", self.id, self.summary)
