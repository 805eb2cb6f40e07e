"""The calls of one lane to the organism: run claimed tasks, settle their outcomes, hand back what is left."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from organism_flows.blocks.errors import OrganismError, OrganismUnavailable, ReplicaLost
from organism_flows.blocks.queue import Batch, Outcomes, Queue, Settled
from organism_flows.blocks.queue.counters import CallMeter
from organism_flows.blocks.queue.wire import HANDED_BACK, positions_of
from organism_flows.flows.lanes.lease import Lease
from organism_flows.flows.lanes.organism_protocol import OrganismCalls
from organism_flows.flows.lanes.settle_batcher import SettleBatcher
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.lanes.windows import CallRecord, Windows

SUSPICION_LIMIT = 5
"""Number of replicas that may die with a task on them. Each further one fails the task's attempt.

A suspect runs in a process of its own, so it rarely causes the death of its replica. But a task that takes
down its whole machine must come to an end.
"""
PATIENCE_S = 30.0
"""Time after which a call that reports nothing is given up, in seconds, on top of twice the longest timeout
of its tasks: a task may have to wait for the timeout of another before its own begins."""
ORGANISM_PAUSE_S = (0.5, 1.0, 2.0, 5.0)
"""Waits before the next claim after no replica took a call, in seconds."""
WAITING_S = 5.0
"""Time after which tasks that no handler has begun are handed back, in seconds: others may have room."""
RECALL_PAUSE_S = 30.0
"""Shortest time between two recalls of one call, in seconds. Tasks that wait for a replica of their organ's
own deployment are better left there."""
ERRANDS_S = 5.0
"""Longest wait for messages to replicas that are still on their way when the lane ends, in seconds."""


@dataclass(slots=True, eq=False)
class OpenCall:
    """One call in flight."""

    batch: Batch
    record: CallRecord
    task: asyncio.Task[Any]
    unreported: set[int]
    """Positions of the tasks whose outcome is still to come."""
    begun: set[int] = field(default_factory=set)
    """Positions of the tasks that a handler is known to have begun."""
    accepted: float = float("inf")
    """When a replica first answered, by `time.monotonic`. Until then the call waits for a replica, and its
    tasks do not show how much room there is."""
    recalled: float = float("-inf")

    @property
    def waiting(self) -> set[int]:
        """Return the positions of the tasks that no handler is known to have begun."""
        return self.unreported - self.begun


class Calls:
    """Calls of one lane: they run the tasks that the lane has claimed.

    Args:
        queue: An open queue.
        organism: The organism that runs the tasks.
        lease: The lane's lease: every write is made under it.
        pace: The windows of the lane. They learn how long tasks take.
        summary: The counts of the lane.
        logger: Logger of its lines.
        on_settled: Called after each settlement.
        on_room: Called when tasks are no longer in flight.
    """

    def __init__(
        self,
        queue: Queue,
        organism: OrganismCalls,
        lease: Lease,
        pace: Windows,
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
        self._settler = SettleBatcher(self._write_outcomes)
        self._open: set[OpenCall] = set()
        self._errands: set[asyncio.Task[None]] = set()
        """Messages to replicas that are being sent in the background."""
        self._failures_in_a_row = 0
        self.running: set[asyncio.Task[None]] = set()
        self.holding: set[int] = set()
        """Claims whose tasks are in flight."""
        self.meter = CallMeter()
        self.organism_back = asyncio.Event()
        """Not set while no replica takes calls and it is too early to try again."""
        self.organism_back.set()
        self.broken: BaseException | None = None
        """Unexpected error of a call, which is a defect of ours."""

    def start(self, batch: Batch) -> None:
        """Start the calls for claimed tasks."""
        self.holding.update(batch.claims)
        reclaimed = [position for position, again in enumerate(batch.reclaimed) if again]
        if reclaimed:
            # The lane that held these tasks before may have left handlers running.
            self.stop_runs({batch.ids[p]: batch.claims[p] - 1 for p in reclaimed})
        for part in self._pace.calls(batch):
            call = asyncio.create_task(self._run(part), name=f"{self._summary.lane}-call")
            self.running.add(call)
            call.add_done_callback(self._ended)

    def cut_off(self) -> None:
        """Cancel every call; each hands back its tasks, unless the lease is lost."""
        for call in list(self.running):
            call.cancel()

    async def close(self) -> None:
        """Cut off every call, and wait until each has handed back its tasks and everything is written."""
        # Shielded: a second cancellation must not keep tasks from being handed back.
        ended = asyncio.gather(*self.running, return_exceptions=True)
        self.cut_off()
        await asyncio.shield(ended)
        await self._settler.close()
        if self._errands:
            _, late = await asyncio.wait(self._errands, timeout=ERRANDS_S)
            for errand in late:
                errand.cancel()

    # Messages to replicas

    def stop_runs(self, runs: Mapping[str, int]) -> None:
        """Stop handlers that run these tasks under the given claim, by id, or an older one. Does not wait."""
        self._send(self._organism.cancel(runs))

    def cut(self, claims: Collection[int]) -> None:
        """Cut off each call whose unreported tasks are all among ``claims``; it hands back its tasks."""
        for call in self._open:
            if {call.batch.claims[p] for p in call.unreported} <= set(claims):
                call.task.cancel()

    def recall(self) -> None:
        """Ask replicas to hand back all tasks that no handler has begun. Does not wait."""
        claims = [call.batch.claims[p] for call in self._open for p in call.waiting]
        if claims:
            self._send(self._organism.recall(claims, leaving=True))

    def balance(self) -> None:
        """Hand back tasks that wait too long for a handler, and adjust the windows to those that run.

        Windows learn from tasks that end. This is for tasks that run for long.
        """
        now = time.monotonic()
        waiting: list[int] = []
        by_type: dict[str, list[OpenCall]] = {}
        for call in self._open:
            by_type.setdefault(call.record.type, []).append(call)
        for task_type, calls in by_type.items():
            if late := [c for c in calls if c.waiting and now - c.accepted > WAITING_S]:
                # While other tasks of the type end, its window learns from them.
                if self._pace.idle_s(task_type) > WAITING_S:
                    self._pace.shrink(task_type, sum(len(call.begun) for call in calls))
                for call in late:
                    if now - call.recalled > RECALL_PAUSE_S:
                        call.recalled = now
                        waiting += [call.batch.claims[p] for p in call.waiting]
            elif not any(call.waiting for call in calls) and self._pace.widen(task_type):
                self._on_room()
        if waiting:
            self._send(self._organism.recall(waiting, leaving=False))

    def _send(self, message: Coroutine[Any, Any, None]) -> None:
        async def send() -> None:
            try:
                await message
            except OrganismError as error:
                self._logger.warning("a replica could not be told: %s", error)

        errand = asyncio.create_task(send(), name=f"{self._summary.lane}-errand")
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)

    # One call

    async def _run(self, batch: Batch) -> None:
        task = asyncio.current_task()
        assert task is not None
        call = OpenCall(batch, self._pace.begin(batch.types[0]), task, set(range(len(batch))))
        self._open.add(call)
        try:
            await self._call(call)
            self._pace.learn(call.record)
        except asyncio.CancelledError:
            if not self._lease.lost:
                await self._interrupted(batch.take(call.unreported))
            raise
        finally:
            self._open.discard(call)
            self.holding.difference_update(batch.claims)
            self._make_room(call, call.unreported)

    async def _interrupted(self, left: Batch) -> None:
        """Hand back tasks, even if this is cancelled while it waits.

        A process that ends cancels every asyncio task, and the lane does so again when it closes.
        """
        release = asyncio.ensure_future(
            self._release(left, "interrupted", "the lane stopped before the task ended")
        )
        while not release.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(release)
        release.result()

    async def _call(self, call: OpenCall) -> None:
        self._summary.calls += 1
        self.meter.batch_size.observe(len(call.batch))
        try:
            async with aclosing(self._organism.call(call.batch)) as stream:
                await self._follow(stream, call)
            if call.unreported:
                raise ReplicaLost(f"the organism ended the call without {len(call.unreported)} outcomes")
            self._failures_in_a_row = 0
        except OrganismUnavailable as error:
            await self._release(call.batch.take(call.unreported), "unavailable", error.what)
            await self._pause(call.record.type, error)
        except ReplicaLost as error:
            await self._blame(call, error)
        finally:
            self.meter.call_seconds.observe(time.monotonic() - call.record.started)

    async def _follow(self, stream: AsyncGenerator[Outcomes, None], call: OpenCall) -> None:
        """Settle outcomes as they come.

        Raises:
            ReplicaLost: Only signs of life came, for longer than the timeouts of the tasks allow.
        """
        loop = asyncio.get_running_loop()
        patience_s: float | None = None
        last_report = loop.time()
        async for outcomes in stream:
            call.accepted = min(call.accepted, time.monotonic())
            if outcomes.timeout_s is not None:
                patience_s = 2 * outcomes.timeout_s + PATIENCE_S
            if outcomes.begun:
                await self._begun(call, outcomes.begun)
            if len(outcomes):
                await self._settle(call, outcomes)
                if call.record.add(outcomes):
                    self._pace.ended(call.record.type)
                self._make_room(call, outcomes.positions)
                last_report = loop.time()
            elif outcomes.waiting or outcomes.begun or patience_s is None:
                last_report = loop.time()
            elif loop.time() - last_report > patience_s:
                raise ReplicaLost(f"a replica reported nothing for {patience_s:g} s")

    async def _begun(self, call: OpenCall, positions: Collection[int]) -> None:
        """Record in the table which tasks handlers have begun."""
        news = call.unreported.intersection(positions) - call.begun
        call.begun |= news
        if news:
            batch = call.batch.take(news)
            await self._lease.write(lambda: self._queue.claims.begun(batch))

    def _make_room(self, call: OpenCall, positions: Collection[int]) -> None:
        self._pace.settled(call.record.type, len(positions))
        self._on_room()

    def _ended(self, call: asyncio.Task[None]) -> None:
        self.running.discard(call)
        self._on_room()
        if call.cancelled() or (error := call.exception()) is None or self._lease.lost:
            return
        # Its tasks are no longer in `holding`, so maintenance hands them back. The lane ends, so a defect of
        # ours does not repeat in a loop.
        self._logger.error("a call ended unexpectedly", exc_info=error)
        self.broken = self.broken or error
        self._on_room()

    async def _blame(self, call: OpenCall, error: ReplicaLost) -> None:
        """Suspect every task that was on a lost replica: each runs in a process of its own from now on."""
        batch, unreported = call.batch, call.unreported
        self._logger.warning("%s; %d tasks had not been reported", error, len(unreported))
        # If the replica only fell silent, it may still run them.
        self.stop_runs({batch.ids[p]: batch.claims[p] for p in unreported})
        charged = await self._suspect(call, set(unreported), error.what)
        self._make_room(call, charged)

    async def _suspect(self, call: OpenCall, positions: set[int], what: str) -> list[int]:
        """Hand back tasks that were on a lost replica.

        Returns:
            Positions of the tasks whose attempt failed instead, because it happened to them too often.
        """
        batch = call.batch
        outcomes = Outcomes()
        for position in positions:
            if batch.suspicions[position] >= SUSPICION_LIMIT:
                lost = batch.suspicions[position] + 1
                text = f"{lost} replicas were lost with it on them; the last: {what}"
                outcomes.add(position, "failed", error=text)
        if len(outcomes):
            await self._settle_now(call, outcomes)
        left = positions.difference(outcomes.positions)
        await self._release(batch.take(left), "replica_lost", what, suspicion=1)
        return outcomes.positions

    async def _pause(self, task_type: str, error: OrganismUnavailable) -> None:
        delay = ORGANISM_PAUSE_S[min(self._failures_in_a_row, len(ORGANISM_PAUSE_S) - 1)]
        self._failures_in_a_row += 1
        self._pace.back_off(task_type)
        self._logger.warning("%s; trying again in %g s", error, delay)
        self.organism_back.clear()
        asyncio.get_running_loop().call_later(delay, self.organism_back.set)

    # Writing

    async def _settle(self, call: OpenCall, outcomes: Outcomes) -> None:
        settling = asyncio.ensure_future(self._settle_now(call, outcomes))
        try:
            await asyncio.shield(settling)
        except asyncio.CancelledError:
            # The statement is already on its way: wait for its result before the cancellation goes on.
            await asyncio.gather(settling, return_exceptions=True)
            raise

    async def _settle_now(self, call: OpenCall, outcomes: Outcomes) -> None:
        if not set(HANDED_BACK).isdisjoint(outcomes.causes):
            outcomes = await self._hand_back(call, outcomes)
        batch = call.batch
        settled = await self._settler.settle(batch, outcomes)
        call.unreported.difference_update(outcomes.positions)
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

    async def _hand_back(self, call: OpenCall, outcomes: Outcomes) -> Outcomes:
        """Hand back the tasks that the organism gave back, and return the outcomes of the others."""
        for cause in HANDED_BACK:
            rows = positions_of(outcomes.causes, cause)
            if not rows:
                continue
            positions = [outcomes.positions[row] for row in rows]
            left = call.batch.take(positions)
            error = outcomes.errors[rows[0]] or "the organism gave it back"
            match cause:
                case "recalled":
                    if call.recalled == float("-inf"):
                        # We did not ask for it: the replica is being taken down, and the next call could
                        # still reach it.
                        self._pace.back_off(call.record.type)
                    await self._release(left, None, error)
                case "replica_lost":
                    await self._suspect(call, set(positions), error)
                case _:
                    await self._release(left, "interrupted", error)
            call.unreported.difference_update(positions)
        return outcomes.take(row for row, cause in enumerate(outcomes.causes) if cause not in HANDED_BACK)

    async def _write_outcomes(self, batch: Batch, outcomes: Outcomes) -> Settled:
        return await self._lease.write(lambda: self._queue.claims.settle(self._summary.lane, batch, outcomes))

    async def _release(self, batch: Batch, cause: str | None, error: str, *, suspicion: int = 0) -> None:
        if not len(batch):
            return
        released = await self._lease.write(
            lambda: self._queue.claims.release(
                self._summary.lane, batch, cause=cause, error=error, suspicion=suspicion
            )
        )
        for status in released.values():
            if status == "failed":
                self._summary.failed += 1
            else:
                self._summary.released += 1
        self._summary.stale += len(batch) - len(released)
