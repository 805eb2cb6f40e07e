"""The calls of one lane to the organism: run claimed tasks, settle their outcomes, hand back what is left."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from organism_flows.blocks.errors import LaneLost, OrganismUnavailable, ReplicaLost
from organism_flows.blocks.queue import Batch, Outcomes
from organism_flows.blocks.queue.counters import CallMeter
from organism_flows.blocks.queue.wire import HANDED_BACK, positions_of
from organism_flows.blocks.task_report import Acknowledgement, Chunks, TaskReport
from organism_flows.flows.lanes.organism_protocol import OrganismCalls
from organism_flows.flows.lanes.replica_messages import ReplicaMessages
from organism_flows.flows.lanes.settle_batcher import SettleBatcher
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.lanes.task_spans import TaskSpans
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
    refused: dict[int, str] = field(default_factory=dict)
    """Why the newest state of a task was not stored, by position."""
    emitted: dict[int, Chunks] = field(default_factory=dict)
    """Numbers of the last chunks of each task that has emitted some, by position."""
    accepted: float = float("inf")
    """When a replica first answered, by `time.monotonic`. Until then the call waits for a replica, and its
    tasks do not show how much room there is."""
    recalled: float = float("-inf")
    leaving: bool = False
    """True if its replica is being taken down."""

    @property
    def waiting(self) -> set[int]:
        """Return the positions of the tasks that no handler is known to have begun."""
        return self.unreported - self.begun

    def with_numbers(self, report: TaskReport) -> TaskReport:
        """Return ``report`` with the numbers of its chunks. Call it once for each report, in their order."""
        if report.chunks is None:
            return report
        chunks = report.chunks.numbered(self.emitted.get(report.position))
        self.emitted[report.position] = chunks._replace(texts=())
        return report._replace(chunks=chunks)


class Calls:
    """Calls of one lane: they run the tasks that the lane has claimed.

    Args:
        organism: The organism that runs the tasks.
        writer: Writes what becomes of the tasks.
        messages: Sends messages to replicas.
        windows: The windows of the lane. They learn how long tasks take.
        summary: The counts of the lane.
        spans: Traces the tasks and the calls.
        logger: Logger of its lines.
        on_room: Called when tasks are no longer in flight.
    """

    def __init__(
        self,
        organism: OrganismCalls,
        writer: SettleBatcher,
        messages: ReplicaMessages,
        windows: Windows,
        summary: LaneSummary,
        spans: TaskSpans,
        *,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        on_room: Callable[[], None],
    ) -> None:
        self._organism = organism
        self._writer = writer
        self._messages = messages
        self._windows = windows
        self._summary = summary
        self._spans = spans
        self._logger = logger
        self._on_room = on_room
        self._open: set[OpenCall] = set()
        self._failures_in_a_row = 0
        self.running: set[asyncio.Task[None]] = set()
        self.holding: set[int] = set()
        """Claims whose tasks are neither settled nor handed back."""
        self.meter = CallMeter()
        self.organism_back = asyncio.Event()
        """Not set while no replica takes calls and it is too early to try again."""
        self.organism_back.set()
        self.broken: BaseException | None = None
        """Unexpected error of a call, which is a defect of ours."""

    def start(self, batch: Batch) -> None:
        """Start the calls for claimed tasks."""
        self.holding.update(batch.claims)
        self._spans.begin(batch)
        if any(batch.reclaimed):
            reclaimed = positions_of(batch.reclaimed, True)
            # The lane that held these tasks before may have left handlers running.
            self._messages.stop_runs({batch.ids[p]: batch.claims[p] - 1 for p in reclaimed})
        for stream, part in self._windows.calls(batch):
            call = asyncio.create_task(self._run(stream, part), name=f"{self._summary.lane}-call")
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
        await self._writer.close()
        await self._messages.close()

    def cut(self, claims: Collection[int]) -> None:
        """Cut off each call whose unreported tasks are all among ``claims``; it hands back its tasks."""
        for call in self._open:
            # A call without unreported tasks ends by itself, once its last outcomes are written.
            if call.unreported and {call.batch.claims[p] for p in call.unreported} <= set(claims):
                call.task.cancel()

    def recall(self) -> None:
        """Ask replicas to hand back all tasks that no handler has begun. Does not wait."""
        claims = [call.batch.claims[p] for call in self._open for p in call.waiting]
        self._messages.recall(claims, leaving=True)

    def ask_to_leave(self, within_s: float) -> None:
        """Ask the handlers of all tasks in flight to leave within so many seconds. Does not wait.

        You may call it repeatedly: each is asked once.
        """
        claims = [call.batch.claims[p] for call in self._open for p in call.unreported]
        self._messages.acknowledge(dict.fromkeys(claims, Acknowledgement(leave_within_s=within_s)))

    def balance(self) -> None:
        """Hand back tasks that wait too long for a handler, and adjust the windows to those that run.

        Windows learn from tasks that end. This is for tasks that run for long.
        """
        now = time.monotonic()
        waiting: list[int] = []
        by_stream: dict[str, list[OpenCall]] = {}
        for call in self._open:
            by_stream.setdefault(call.record.stream, []).append(call)
        for stream, calls in by_stream.items():
            if late := [c for c in calls if c.waiting and now - c.accepted > WAITING_S]:
                # While other tasks of the stream end, its window learns from them.
                if self._windows.idle_s(stream) > WAITING_S:
                    self._windows.shrink(stream, sum(len(call.begun) for call in calls))
                for call in late:
                    if now - call.recalled > RECALL_PAUSE_S:
                        call.recalled = now
                        waiting += [call.batch.claims[p] for p in call.waiting]
            elif not any(call.waiting for call in calls) and self._windows.widen(stream):
                self._on_room()
        self._messages.recall(waiting, leaving=False)

    # One call

    async def _run(self, stream: str, batch: Batch) -> None:
        task = asyncio.current_task()
        assert task is not None
        call = OpenCall(batch, self._windows.begin(stream), task, set(range(len(batch))))
        self._open.add(call)
        try:
            await self._call(call)
            self._windows.learn(call.record)
        except asyncio.CancelledError:
            why = "the lane stopped before the task ended"
            await self._release(call, call.unreported, "interrupted", why)
            raise
        finally:
            self._open.discard(call)
            self._make_room(call, call.unreported)

    async def _call(self, call: OpenCall) -> None:
        self._summary.calls += 1
        self.meter.batch_size.observe(len(call.batch))
        try:
            with self._spans.call(call.batch):
                async with aclosing(self._organism.call(call.batch)) as stream:
                    await self._follow(stream, call)
            if call.unreported:
                raise ReplicaLost(f"the organism ended the call without {len(call.unreported)} outcomes")
            self._failures_in_a_row = 0
        except OrganismUnavailable as error:
            await self._release(call, call.unreported, "unavailable", error.what)
            self._pause(call.record.stream, error)
        except ReplicaLost as error:
            self._logger.warning("%s; %d tasks had not been reported", error, len(call.unreported))
            batch = call.batch
            # If the replica only fell silent, it may still run them.
            self._messages.stop_runs({batch.ids[p]: batch.claims[p] for p in call.unreported})
            if call.leaving:
                why = f"{error.what} while it was being taken down"
                await self._release(call, call.unreported, "interrupted", why)
            else:
                await self._suspect(call, call.unreported, error.what)
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
            call.leaving |= outcomes.leaving
            if outcomes.timeout_s is not None:
                patience_s = 2 * outcomes.timeout_s + PATIENCE_S
            await self._begin(call, call.unreported.intersection(outcomes.begun), outcomes)
            if outcomes.reports:
                await self._record(call, outcomes)
            if len(outcomes):
                await self._write(call, outcomes)
                last_report = loop.time()
            elif outcomes.waiting or outcomes.begun or outcomes.reports or patience_s is None:
                last_report = loop.time()
            elif loop.time() - last_report > patience_s:
                raise ReplicaLost(f"a replica reported nothing for {patience_s:g} s")

    async def _begin(self, call: OpenCall, positions: set[int], outcomes: Outcomes) -> None:
        """Write that handlers have begun with these tasks, unless it is written already."""
        if begun := positions - call.begun:
            call.begun |= begun
            versions = {call.batch.claims[p]: outcomes.begun.get(p) for p in begun}
            await self._writer.begun(call.batch.take(begun), versions)

    async def _record(self, call: OpenCall, outcomes: Outcomes) -> None:
        """Write what running tasks have reported, and answer those that wait for it."""
        batch = call.batch
        reports = [report for report in outcomes.reports if report.position in call.unreported]
        # A claim looks for checkpoints only of tasks that a handler is known to have begun.
        await self._begin(call, {report.position for report in reports}, outcomes)
        recorded = await self._writer.record(batch, [call.with_numbers(report) for report in reports])
        answers: dict[int, Acknowledgement] = {}
        for report in reports:
            claim = batch.claims[report.position]
            if problem := recorded.refused.get(claim):
                call.refused[report.position] = f"Postgres cannot store the state: {problem}"
            elif report.state is not None:
                call.refused.pop(report.position, None)
            if claim in recorded.further and report.position not in call.refused:
                if recorded.further[claim]:
                    # As in the table: what befell earlier attempts no longer counts.
                    batch.suspicions[report.position] = min(batch.suspicions[report.position], 1)
                if report.awaited:
                    answers[claim] = Acknowledgement(report.step)
            elif report.position in call.refused:
                answers[claim] = Acknowledgement(report.step, call.refused[report.position])
            else:
                text = f"claim {claim} is no longer the newest of task {batch.ids[report.position]}"
                answers[claim] = Acknowledgement(report.step, text, stale=True)
        self._messages.acknowledge(answers)

    async def _write(self, call: OpenCall, outcomes: Outcomes) -> None:
        """Settle the tasks that have ended, and hand back those that the organism gave back."""
        if set(HANDED_BACK).isdisjoint(outcomes.causes):
            ended, given_back = outcomes, Outcomes()
        else:
            ended = outcomes.take(n for n, cause in enumerate(outcomes.causes) if cause not in HANDED_BACK)
            given_back = outcomes
        if len(ended):
            await self._settle(call, ended)
            call.record.add(ended)
            self._windows.streams.learn(call.batch, ended)
            self._windows.ended(call.record.stream)
        for cause in HANDED_BACK:
            if rows := positions_of(given_back.causes, cause):
                positions = [given_back.positions[row] for row in rows]
                error = given_back.errors[rows[0]] or "the organism gave it back"
                await self._hand_back(call, positions, cause, error)

    async def _settle(self, call: OpenCall, outcomes: Outcomes) -> None:
        call.unreported.difference_update(outcomes.positions)
        try:
            await self._writer.settle(call.batch, outcomes)
        finally:
            self._make_room(call, outcomes.positions)

    async def _hand_back(self, call: OpenCall, positions: Collection[int], cause: str, error: str) -> None:
        match cause:
            case "replica_lost":
                await self._suspect(call, positions, error)
            case "recalled":
                if call.recalled == float("-inf"):
                    # We did not ask for it: the replica is being taken down, and the next call could still
                    # reach it.
                    self._windows.back_off(call.record.stream)
                await self._release(call, positions, None, error)
            case _:
                await self._release(call, positions, "interrupted", error)

    async def _suspect(self, call: OpenCall, positions: Collection[int], what: str) -> None:
        """Hand back tasks that were on a lost replica: each runs in a process of its own from now on.

        A task that this happened to too often fails instead.
        """
        failed = Outcomes()
        for position in positions:
            suspicions = call.batch.suspicions[position]
            if suspicions >= SUSPICION_LIMIT:
                text = f"{suspicions + 1} replicas were lost with it on them; the last: {what}"
                failed.add(position, "failed", error=text)
        others = set(positions).difference(failed.positions)
        if len(failed):
            await self._settle(call, failed)
        await self._release(call, others, "replica_lost", what, suspicion=1)

    async def _release(
        self, call: OpenCall, positions: Collection[int], cause: str | None, error: str, *, suspicion: int = 0
    ) -> None:
        released = list(positions)
        call.unreported.difference_update(released)
        try:
            await self._writer.release(call.batch.take(released), cause, error, suspicion=suspicion)
        finally:
            self._make_room(call, released)

    def _make_room(self, call: OpenCall, positions: Collection[int]) -> None:
        self.holding.difference_update([call.batch.claims[p] for p in positions])
        self._windows.settled(call.record.stream, len(positions))
        self._on_room()

    def _ended(self, call: asyncio.Task[None]) -> None:
        self.running.discard(call)
        self._on_room()
        if call.cancelled() or (error := call.exception()) is None or isinstance(error, LaneLost):
            return
        # Its tasks are no longer in `holding`, so maintenance hands them back. The lane ends, so a defect of
        # ours does not repeat in a loop.
        self._logger.error("a call ended unexpectedly", exc_info=error)
        self.broken = self.broken or error
        self._on_room()

    def _pause(self, stream: str, error: OrganismUnavailable) -> None:
        delay = ORGANISM_PAUSE_S[min(self._failures_in_a_row, len(ORGANISM_PAUSE_S) - 1)]
        self._failures_in_a_row += 1
        self._windows.back_off(stream)
        self._logger.warning("%s; trying again in %g s", error, delay)
        self.organism_back.clear()
        asyncio.get_running_loop().call_later(delay, self.organism_back.set)
