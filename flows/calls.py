"""The calls of one lane to the organism: run claimed tasks, settle their outcomes, hand back what is left."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from blocks.errors import OrganismUnavailable, ReplicaLost
from blocks.queue import Batch, Outcomes, Queue, Settled
from blocks.queue.figures import CallMeter
from flows.lease import Lease
from flows.pacing import GROUP_SIZES, CallRecord, Pace
from flows.settling import Settler

SUSPECT_CALLS = 3
"""Calls of suspects at once; each has a replica to itself."""
PATIENCE_S = 30.0
"""Beyond twice the longest timeout of its tasks, a call that reports nothing is given up: a task may have to
wait for another's timeout before its own begins."""
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

    async def cancel(self, claims: Sequence[int]) -> None:
        """Stop tasks, wherever they run; each is reported through its own call.

        Raises:
            OrganismUnavailable: Not every replica could be asked.
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
    cancelled: int = 0
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
            + (f"{self.cancelled} cancelled, " if self.cancelled else "")
            + f"{self.released} handed back, {self.stale} stale; {self.calls} calls in {self.seconds:.1f} s"
        )

    @property
    def settled(self) -> int:
        return self.completed + self.failed + self.cancelled + self.retried

    @property
    def figures(self) -> dict[str, int]:
        """By their names in `blocks.queue.figures`."""
        return {
            "claims": self.claimed,
            "completed": self.completed,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "retries": self.retried,
            "released": self.released,
            "stale_writes": self.stale,
        }


class Calls:
    """Runs the tasks one lane has claimed.

    Args:
        queue: An open queue.
        organism: Where the tasks run.
        lease: The lane's lease: every write is made under it.
        pace: Told of everything that ends, and how long it took.
        summary: Counts what becomes of the tasks.
        logger: Where its few lines go.
        on_settled: Called after each settlement.
        on_room: Called when tasks are no longer in flight.
    """

    def __init__(
        self,
        queue: Queue,
        organism: OrganismClient,
        lease: Lease,
        pace: Pace,
        summary: LaneSummary,
        *,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        on_settled: Callable[[], None],
        on_room: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._organism = organism
        self._lease = lease
        self._pace = pace
        self._summary = summary
        self._logger = logger
        self._on_settled = on_settled
        self._on_room = on_room
        self._settler = Settler(self._write_outcomes)
        self._suspects: deque[Batch] = deque()
        """Claimed and waiting for one of the calls that may be made of suspects."""
        self._suspect_calls = 0
        self._failures_in_a_row = 0
        self._closed = False
        self.running: set[asyncio.Task[None]] = set()
        self.holding: set[int] = set()
        """Claims whose tasks are in flight."""
        self.meter = CallMeter()
        self.organism_back = asyncio.Event()
        """Not set while nobody takes calls and it is too early to try again."""
        self.organism_back.set()
        self.broken: BaseException | None = None
        """What ended a call that should not have: a mistake of ours."""

    def start(self, batch: Batch) -> None:
        """Start the calls for claimed tasks."""
        self.holding.update(batch.claims)
        for part in self._pace.calls(batch):
            if part.suspicions[0] > 0:
                self._suspects.append(part)
            else:
                self._start(part)
        self._start_suspects()

    def _start_suspects(self) -> None:
        """Start calls of suspects, as many as may run; each takes along what waits and fits."""
        while self._suspects and self._suspect_calls < SUSPECT_CALLS and not self._closed:
            together = self._suspects.popleft()
            limit = GROUP_SIZES[together.suspicions[0]]
            while self._suspects and self._suspects[0].suspicions[0] == together.suspicions[0]:
                if len(together) + len(self._suspects[0]) > limit:
                    break
                together.extend(self._suspects.popleft())
            self._suspect_calls += 1
            self._start(together)

    def _start(self, batch: Batch) -> None:
        call = asyncio.create_task(self._run(batch), name=f"{self._summary.lane}-call")
        self.running.add(call)
        call.add_done_callback(self._ended)

    def cut_off(self) -> None:
        """Cancel every call; each hands back its tasks, unless the lease is lost."""
        for call in list(self.running):
            call.cancel()

    async def close(self) -> None:
        """Cut off what runs, and wait until each call has handed its tasks back and all is written."""
        self._closed = True
        # Shielded: a second cancellation must not keep tasks from being handed back.
        ended = asyncio.gather(*self.running, self._hand_back_suspects(), return_exceptions=True)
        self.cut_off()
        await asyncio.shield(ended)
        await self._settler.close()

    async def _hand_back_suspects(self) -> None:
        while self._suspects and not self._lease.lost:
            await self._release(
                self._suspects.popleft(), "interrupted", "the lane stopped before the task ran"
            )

    # One call

    async def _run(self, batch: Batch) -> None:
        record = self._pace.begin(batch.types[0])
        unreported = set(range(len(batch)))
        exclusive = batch.suspicions[0] > 0
        try:
            await self._call(batch, unreported, record, exclusive=exclusive)
            if not exclusive:
                self._pace.learn(record)
        except asyncio.CancelledError:
            if not self._lease.lost:
                left = batch.take(unreported)
                await self._release(left, "interrupted", "the lane stopped before the task ended")
            raise
        finally:
            self.holding.difference_update(batch.claims)
            self._make_room(batch, unreported)
            if exclusive:
                self._suspect_calls -= 1
                self._start_suspects()

    async def _call(self, batch: Batch, unreported: set[int], record: CallRecord, *, exclusive: bool) -> None:
        self._summary.calls += 1
        self.meter.batch_size.observe(len(batch))
        started = time.monotonic()
        try:
            async with aclosing(self._organism.call(batch, exclusive=exclusive)) as stream:
                await self._follow(stream, batch, unreported, record)
            if unreported:
                raise ReplicaLost(f"the organism ended the call without {len(unreported)} outcomes")
            self._failures_in_a_row = 0
        except OrganismUnavailable as error:
            await self._release(batch.take(unreported), "unavailable", error.what)
            await self._pause(record.type, error)
        except ReplicaLost as error:
            await self._blame(batch, unreported, exclusive, error)
        finally:
            self.meter.call_seconds.observe(time.monotonic() - started)

    async def _follow(
        self, stream: AsyncGenerator[Outcomes, None], batch: Batch, unreported: set[int], record: CallRecord
    ) -> None:
        """Settle outcomes as they come.

        Raises:
            ReplicaLost: Signs of life are all that came, for longer than the tasks' timeouts allow.
        """
        loop = asyncio.get_running_loop()
        patience_s: float | None = None
        last_report = loop.time()
        async for outcomes in stream:
            if outcomes.timeout_s is not None:
                patience_s = 2 * outcomes.timeout_s + PATIENCE_S
            if len(outcomes):
                await self._settle(batch, outcomes, unreported)
                record.add(outcomes)
                self._make_room(batch, outcomes.positions)
                last_report = loop.time()
            elif outcomes.waiting or patience_s is None:
                last_report = loop.time()
            elif loop.time() - last_report > patience_s:
                raise ReplicaLost(f"a replica reported nothing for {patience_s:g} s")

    def _make_room(self, batch: Batch, positions: Collection[int]) -> None:
        if batch.suspicions[0] > 0:
            # Only suspects of several types share a call.
            for position in positions:
                self._pace.settled(batch.types[position], 1)
        else:
            self._pace.settled(batch.types[0], len(positions))
        self._on_room()

    def _ended(self, call: asyncio.Task[None]) -> None:
        self.running.discard(call)
        self._on_room()
        if call.cancelled() or (error := call.exception()) is None or self._lease.lost:
            return
        # Its tasks are no longer in `holding`, so maintenance hands them back; ending the lane keeps a
        # mistake of ours from turning into a loop.
        self._logger.error("a call ended unexpectedly", exc_info=error)
        self.broken = self.broken or error
        self._on_room()

    async def _blame(self, batch: Batch, unreported: set[int], exclusive: bool, error: ReplicaLost) -> None:
        """Charge a lost replica to the task that ran alone on it; else find out in smaller groups."""
        self._logger.warning("%s; %d tasks had not been reported", error, len(unreported))
        if exclusive and len(batch) == 1 and unreported:
            outcomes = Outcomes()
            outcomes.add(0, "failed", error=f"ran alone on a replica, and {error.what}")
            await self._settle(batch, outcomes, unreported)
            self._make_room(batch, [0])
        else:
            suspicion = min(batch.suspicions[0] + 1, len(GROUP_SIZES) - 1)
            await self._release(batch.take(unreported), "replica_lost", error.what, suspicion=suspicion)

    async def _pause(self, task_type: str, error: OrganismUnavailable) -> None:
        delay = ORGANISM_PAUSE_S[min(self._failures_in_a_row, len(ORGANISM_PAUSE_S) - 1)]
        self._failures_in_a_row += 1
        self._pace.back_off(task_type)
        self._logger.warning("%s; trying again in %g s", error, delay)
        self.organism_back.clear()
        asyncio.get_running_loop().call_later(delay, self.organism_back.set)

    # Writing

    async def _settle(self, batch: Batch, outcomes: Outcomes, unreported: set[int]) -> None:
        settling = asyncio.ensure_future(self._settle_now(batch, outcomes, unreported))
        try:
            await asyncio.shield(settling)
        except asyncio.CancelledError:
            # Already on its way: whoever cancels us learns first what came of it.
            await asyncio.gather(settling, return_exceptions=True)
            raise

    async def _settle_now(self, batch: Batch, outcomes: Outcomes, unreported: set[int]) -> None:
        handed_back = [i for i, cause in enumerate(outcomes.causes) if cause == "interrupted"]
        if handed_back:
            left = batch.take(outcomes.positions[i] for i in handed_back)
            await self._release(left, "interrupted", "the replica stopped before the task ended")
            unreported.difference_update(outcomes.positions[i] for i in handed_back)
            outcomes = outcomes.take(i for i in range(len(outcomes)) if i not in set(handed_back))
        settled = await self._settler.settle(batch, outcomes)
        unreported.difference_update(outcomes.positions)
        for status in settled.statuses.values():
            match status:
                case "completed":
                    self._summary.completed += 1
                case "failed":
                    self._summary.failed += 1
                case "cancelled":
                    self._summary.cancelled += 1
                case _:
                    self._summary.retried += 1
        if settled.stale:
            self._summary.stale += len(settled.stale)
            self._logger.warning(
                "%d outcomes were stale and changed nothing: %s", len(settled.stale), settled.stale[:5]
            )
        self._on_settled()

    async def _write_outcomes(self, batch: Batch, outcomes: Outcomes) -> Settled:
        return await self._lease.write(lambda: self._queue.settle(self._summary.lane, batch, outcomes))

    async def _release(self, batch: Batch, cause: str, error: str, *, suspicion: int = 0) -> None:
        if not len(batch):
            return
        released = await self._lease.write(
            lambda: self._queue.release(
                self._summary.lane, batch, cause=cause, error=error, suspicion=suspicion
            )
        )
        self._summary.released += len(released)
        self._summary.stale += len(batch) - len(released)
