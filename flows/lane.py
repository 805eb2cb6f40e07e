"""One lane: claim → call → settle, in plain asyncio.

A lane is the only writer about the tasks it claims. It holds a lease that its heartbeat renews, keeps a few
calls to the organism in flight, settles outcomes as they stream in, and leaves nothing behind: what it cannot
finish it hands back uncharged. It knows neither Prefect nor Ray, so everything it promises can be tried
without them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from blocks.errors import OrganismUnavailable, ReplicaLost
from blocks.queue import Batch, Outcomes, Queue
from blocks.queue.connection import TRANSIENT_ERRORS
from blocks.queue.wire import positions_of
from flows.lease import RETRY_S, Lease

POLL_S = 5.0
"""Longest wait without looking: wake-ups come by NOTIFY, this only catches what it missed."""
LAST_TASKS_POLL_S = 0.5
GROUP_SIZES = (0, 10, 1)
"""Most tasks in a call by suspicion; 0: no limit. Straight to 1 took 60 s for the 300 tasks of one killed
replica, of which most had not even begun."""
ORGANISM_PAUSE_S = (0.5, 1.0, 2.0, 5.0)
"""Waits before claiming again after no replica took a call."""


class OrganismClient(Protocol):
    """What a lane needs of the organism."""

    def call(self, batch: Batch, *, exclusive: bool) -> AsyncGenerator[Outcomes, None]:
        """Run ``batch`` and yield outcomes as they come, some of them empty as a sign of life.

        Raises:
            OrganismUnavailable: Nothing of the batch ran.
            ReplicaLost: What has not been yielded is unknown.
        """
        ...


@dataclass(slots=True)
class LaneSummary:
    """What one lane did. ``claimed`` is the sum of the settled, the stale and the handed back."""

    lane: str
    claimed: int = 0
    completed: int = 0
    failed: int = 0
    """Dead letters."""
    retried: int = 0
    """Attempts that failed or timed out and will be made again."""
    released: int = 0
    """Tasks handed back with the attempt uncharged."""
    stale: int = 0
    """Outcomes refused because somebody else holds the task by now."""
    calls: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.completed} completed, {self.failed} dead letters, {self.retried} to be retried, "
            f"{self.released} handed back, {self.stale} stale; {self.calls} calls in {self.seconds:.1f} s"
        )

    @property
    def settled(self) -> int:
        return self.completed + self.failed + self.retried


@dataclass(slots=True)
class LaneSignals:
    """What happens in a lane, to be awaited instead of slept for."""

    claimed: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while nothing is in flight and the last claim found nothing."""


class Lane:
    """Runs tasks of one queue on one organism until told to stop.

    Args:
        queue: An open queue.
        organism: Where the tasks run.
        run: The dispatch run it belongs to; `Queue.request_stop` of that run stops it.
        batch_size: Most tasks one claim takes and one call carries.
        calls_in_flight: Most calls at once.
        until_empty: Stop when nothing runs, is ready or waits for another attempt.
        max_seconds: Stop claiming after this long; None: never.
        grace_s: On stop, how long calls in flight may still take before their tasks are handed back.
        logger: Where its few lines go.
        on_settled: Called with the summary after each settlement.
    """

    def __init__(
        self,
        queue: Queue,
        organism: OrganismClient,
        *,
        run: str | None = None,
        batch_size: int = 100,
        calls_in_flight: int = 3,
        until_empty: bool = False,
        max_seconds: float | None = None,
        grace_s: float = 20.0,
        logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
        on_settled: Callable[[LaneSummary], None] = lambda _: None,
    ) -> None:
        self.queue = queue
        self.organism = organism
        self.batch_size = batch_size
        self.until_empty = until_empty
        self.max_seconds = max_seconds
        self.grace_s = grace_s
        self.summary = LaneSummary(lane=f"lane-{uuid4().hex[:12]}")
        self.signals = LaneSignals()
        self._logger = logger or logging.getLogger("organism.lane")
        self._on_settled = on_settled
        self._lease = Lease(queue, self.id, run=run, on_lost=self._lose, on_stop=self.stop)
        self._slots = asyncio.Semaphore(calls_in_flight)
        self._work: set[asyncio.Task[None]] = set()
        self._holding: set[int] = set()
        self._claiming = asyncio.Lock()
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._broken: BaseException | None = None
        self._organism_failures = 0

    @property
    def id(self) -> str:
        """Fresh for every lane, so that a namesake can never pass for it."""
        return self.summary.lane

    def stop(self) -> None:
        """Stop claiming; `run` returns when what is in flight has ended or the grace period is over."""
        self._stop.set()
        self._wake.set()

    async def _stop_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.stop()

    async def run(self) -> LaneSummary:
        """Run until stopped, empty, or out of time.

        Raises:
            LaneLost: The lease could not be renewed in time; nothing was written after that.
        """
        started = time.monotonic()
        await self._lease.open()
        self._logger.info("lane %s started", self.id)
        keepers = [
            asyncio.create_task(self._lease.keep(lambda: self.summary.settled), name=f"{self.id}-heartbeat"),
            asyncio.create_task(self._maintain(), name=f"{self.id}-maintenance"),
        ]
        try:
            async with self.queue.wakeups() as self._wake:
                if self.max_seconds is not None:
                    keepers.append(asyncio.create_task(self._stop_after(self.max_seconds)))
                await self._claim_until_stopped()
                await self._drain()
        finally:
            # Reached by cancellation too: hand everything back before leaving, whatever the reason.
            await self._finish_now()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            self.summary.seconds = time.monotonic() - started
            await self._leave()
        if self._lease.lost:
            raise self._lease.error()
        if self._broken:
            raise self._broken
        return self.summary

    # Claiming

    async def _claim_until_stopped(self) -> None:
        while not self._stop.is_set():
            await self._slots.acquire()
            self._wake.clear()
            try:
                batch = Batch() if self._stop.is_set() else await self._claim()
            except BaseException:
                self._slots.release()
                raise
            if len(batch):
                self._start_calls(batch)
                continue
            self._slots.release()
            if not self._work:
                self.signals.idle.set()
            if self._stop.is_set() or await self._wait_for_work():
                return

    async def _claim(self) -> Batch:
        async with self._claiming:
            try:
                batch = await self.queue.claim(self.id, self.batch_size)
            except TRANSIENT_ERRORS as error:
                self._logger.warning("claim failed, trying again: %s", error)
                await asyncio.sleep(RETRY_S)
                return Batch()
            self._holding.update(batch.claims)
        if len(batch):
            self.summary.claimed += len(batch)
            self.signals.idle.clear()
            self.signals.claimed.set()
        return batch

    def _start_calls(self, batch: Batch) -> None:
        """Start the calls for ``batch``: suspects in small groups or alone, the others together.

        The first call takes over the slot the claim was made with; any other waits for one of its own.
        """
        parts = []
        for suspicion, size in enumerate(GROUP_SIZES):
            positions = positions_of(batch.suspicions, suspicion)
            size = size or len(positions)
            parts += [batch.take(positions[i : i + size]) for i in range(0, len(positions), size or 1)]
        for number, part in enumerate(parts):
            work = asyncio.create_task(self._call(part, has_slot=number == 0), name=f"{self.id}-call")
            self._work.add(work)
            work.add_done_callback(self._call_ended)

    async def _wait_for_work(self) -> bool:
        """Wait until there may be something to claim. True: there will be nothing, and the lane may end."""
        try:
            outlook = await self.queue.outlook()
        except TRANSIENT_ERRORS:
            return False
        if self.until_empty and outlook.empty and not self._work:
            return True
        # A task that somebody else runs may be the last one, and its settlement wakes nobody.
        wait_s = LAST_TASKS_POLL_S if self.until_empty else POLL_S
        if outlook.next_due_s is not None:
            wait_s = min(wait_s, max(outlook.next_due_s, 0.01))
        waiters = [asyncio.ensure_future(self._wake.wait()), *self._work]
        try:
            await asyncio.wait(waiters, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiters[0].cancel()
        return False

    # One call

    async def _call(self, batch: Batch, *, has_slot: bool) -> None:
        exclusive = batch.suspicions[0] > 0
        open_positions = set(range(len(batch)))
        try:
            if not has_slot:
                await self._slots.acquire()
                has_slot = True
            self.summary.calls += 1
            async with aclosing(self.organism.call(batch, exclusive=exclusive)) as stream:
                async for outcomes in stream:
                    if len(outcomes):
                        await self._settle(batch, outcomes)
                        open_positions.difference_update(outcomes.positions)
            if open_positions:
                raise ReplicaLost(f"the organism ended the call without {len(open_positions)} outcomes")
            self._organism_failures = 0
        except OrganismUnavailable as error:
            await self._release(batch.take(open_positions), "unavailable", error.what)
            await self._pause(error)
        except ReplicaLost as error:
            await self._blame(batch, open_positions, exclusive, error)
        except asyncio.CancelledError:
            if not self._lease.lost:
                left = batch.take(open_positions)
                await self._release(left, "interrupted", "the lane stopped before the task ended")
            raise
        finally:
            self._holding.difference_update(batch.claims)
            if has_slot:
                self._slots.release()

    def _call_ended(self, work: asyncio.Task[None]) -> None:
        self._work.discard(work)
        if work.cancelled() or (error := work.exception()) is None or self._lease.lost:
            return
        # Its tasks are no longer in `_holding`, so maintenance hands them back; ending the lane keeps a
        # mistake of ours from turning into a loop.
        self._logger.error("a call ended unexpectedly", exc_info=error)
        self._broken = self._broken or error
        self.stop()

    async def _blame(
        self, batch: Batch, open_positions: set[int], exclusive: bool, error: ReplicaLost
    ) -> None:
        """Charge a lost replica to the task that ran alone on it; else find out in smaller groups."""
        self._logger.warning("%s; %d tasks had not been reported", error, len(open_positions))
        if exclusive and len(batch) == 1 and open_positions:
            outcomes = Outcomes()
            outcomes.add(0, "failed", error=f"ran alone on a replica, and {error.what}")
            await self._settle(batch, outcomes)
        else:
            suspicion = min(batch.suspicions[0] + 1, len(GROUP_SIZES) - 1)
            await self._release(batch.take(open_positions), "replica_lost", error.what, suspicion=suspicion)

    async def _pause(self, error: OrganismUnavailable) -> None:
        delay = ORGANISM_PAUSE_S[min(self._organism_failures, len(ORGANISM_PAUSE_S) - 1)]
        self._organism_failures += 1
        self._logger.warning("%s; trying again in %g s", error, delay)
        # Waiting here keeps this call's slot, and so slows claiming while the organism is away.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay)

    # Writing

    async def _settle(self, batch: Batch, outcomes: Outcomes) -> None:
        handed_back = [i for i, cause in enumerate(outcomes.causes) if cause == "interrupted"]
        if handed_back:
            left = batch.take(outcomes.positions[i] for i in handed_back)
            await self._release(left, "interrupted", "the replica stopped before the task ended")
            outcomes = outcomes.take(i for i in range(len(outcomes)) if i not in set(handed_back))
        settled = await self._lease.write(lambda: self.queue.settle(self.id, batch, outcomes))
        for status in settled.statuses.values():
            match status:
                case "completed":
                    self.summary.completed += 1
                case "failed":
                    self.summary.failed += 1
                case _:
                    self.summary.retried += 1
        if settled.stale:
            self.summary.stale += len(settled.stale)
            self._logger.warning(
                "%d outcomes were stale and changed nothing: %s", len(settled.stale), settled.stale[:5]
            )
        self.signals.settled.set()
        self._on_settled(self.summary)

    async def _release(self, batch: Batch, cause: str, error: str, *, suspicion: int = 0) -> None:
        if not len(batch):
            return
        released = await self._lease.write(
            lambda: self.queue.release(self.id, batch, cause=cause, error=error, suspicion=suspicion)
        )
        self.summary.released += len(released)
        self.summary.stale += len(batch) - len(released)

    # Keeping house

    async def _maintain(self) -> None:
        """Take back what dead lanes held, and what the table says we hold and we do not know of."""
        while True:
            try:
                reaped = await self.queue.reap()
                if reaped.retried or reaped.failed:
                    self._logger.warning("took back %d tasks of lost lanes", reaped.retried + reaped.failed)
                async with self._claiming:
                    abandoned = await self.queue.abandon(self.id, holding=list(self._holding))
                if abandoned:
                    self._logger.warning("handed back %d tasks of an unanswered claim", len(abandoned))
            except TRANSIENT_ERRORS as error:
                self._logger.warning("maintenance failed, trying again: %s", error)
            await asyncio.sleep(self._lease.interval)

    def _lose(self, why: str) -> None:
        """Cut every call off and write nothing more."""
        self._logger.error("lane %s lost its lease: %s", self.id, why)
        for work in self._work:
            work.cancel()
        self.stop()

    # Leaving

    async def _drain(self) -> None:
        if self._work and not self._lease.lost:
            self._logger.info("stopping: %d calls in flight, %g s grace", len(self._work), self.grace_s)
            await asyncio.wait(self._work, timeout=self.grace_s)

    async def _finish_now(self) -> None:
        """Cut off the calls still in flight, and wait until each has handed its tasks back."""
        ended = asyncio.gather(*self._work, return_exceptions=True)
        for work in list(self._work):
            work.cancel()
        # Shielded: a second cancellation must not keep tasks from being handed back.
        await asyncio.shield(ended)

    async def _leave(self) -> None:
        try:
            if not self._lease.lost:
                # A claim that was cut off may have gone through.
                await self.queue.abandon(self.id, holding=[])
            await self._lease.close()
        except TRANSIENT_ERRORS as error:
            self._logger.warning("could not close the lease, it will expire: %s", error)
        self._logger.info("lane %s ended: %s", self.id, self.summary)
