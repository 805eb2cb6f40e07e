"""The writes of a lane about its tasks: under its lease, the outcomes of several calls in one statement."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

from organism_flows.blocks.queue import Batch, Outcomes, Queue, Settled
from organism_flows.flows.lanes.lease import Lease
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.lanes.task_spans import TaskSpans

STATEMENTS_AT_ONCE = 2
"""Upper bound on the statements in flight. More of them would only be smaller."""
TASKS_A_STATEMENT = 1000

T = TypeVar("T")


class Settlement(NamedTuple):
    """Outcomes of one call that wait to be written."""

    batch: Batch
    outcomes: Outcomes
    written: asyncio.Future[None]


class SettleBatcher:
    """Writes what becomes of a lane's tasks, and counts it.

    Outcomes that come in while `STATEMENTS_AT_ONCE` statements are in flight share the next one: a statement
    by itself costs as much as about 20 tasks. A caller that is cancelled stays until its write has ended.

    Args:
        queue: An open queue.
        lease: The lane's lease: every write is made under it.
        summary: The counts of the lane.
        spans: Traces the tasks.
        logger: Logger of its lines.
        on_settled: Called after each settlement.
    """

    def __init__(
        self,
        queue: Queue,
        lease: Lease,
        summary: LaneSummary,
        spans: TaskSpans,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        on_settled: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._lease = lease
        self._summary = summary
        self._spans = spans
        self._logger = logger
        self._on_settled = on_settled
        self._waiting: list[Settlement] = []
        self._writing: set[asyncio.Task[None]] = set()

    async def settle(self, batch: Batch, outcomes: Outcomes) -> None:
        """Write the outcomes of some tasks of ``batch``. Return when Postgres has acknowledged them.

        Raises:
            LaneLost: The lease is over.
        """
        settlement = Settlement(batch, outcomes, asyncio.get_running_loop().create_future())
        self._waiting.append(settlement)
        if len(self._writing) < STATEMENTS_AT_ONCE:
            writer = asyncio.create_task(self._write_waiting(), name="settle")
            self._writing.add(writer)
            writer.add_done_callback(self._writing.discard)
        await _finished(settlement.written)

    async def release(self, batch: Batch, cause: str | None, error: str, *, suspicion: int = 0) -> None:
        """Hand back the tasks of ``batch``, with the attempt not charged.

        Args:
            batch: The tasks.
            cause: Cause of the end of the attempt; `None`: as if they had never been claimed.
            error: Text for the history of the tasks.
            suspicion: Number of replicas that died with them.

        Raises:
            LaneLost: The lease is over.
        """
        if len(batch):
            release = partial(
                self._queue.claims.release,
                self._summary.lane,
                batch,
                cause=cause,
                error=error,
                suspicion=suspicion,
            )
            started_ns = time.time_ns()
            await _finished(self._release(len(batch), release))
            self._spans.released(batch, cause, started_ns)

    async def begun(self, batch: Batch) -> None:
        """Record that handlers have begun with the tasks of ``batch``.

        Raises:
            LaneLost: The lease is over.
        """
        await self._lease.write(partial(self._queue.claims.begun, batch))

    async def close(self) -> None:
        """Wait until everything is written."""
        await asyncio.gather(*self._writing)

    async def _write_waiting(self) -> None:
        while self._waiting:
            chosen = self._choose()
            batch, outcomes = _merge(chosen)
            started_ns = time.time_ns()
            try:
                settled = await self._lease.write(
                    partial(self._queue.claims.settle, self._summary.lane, batch, outcomes)
                )
            except BaseException as error:
                for settlement in chosen:
                    settlement.written.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            self._count(settled)
            self._spans.settled(batch, outcomes, settled.stale, started_ns)
            for settlement in chosen:
                settlement.written.set_result(None)

    async def _release(self, tasks: int, release: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        self._summary.add_released(tasks, await self._lease.write(release))

    def _choose(self) -> list[Settlement]:
        tasks = number = 0
        for settlement in self._waiting:
            tasks += len(settlement.outcomes)
            if number and tasks > TASKS_A_STATEMENT:
                break
            number += 1
        chosen, self._waiting = self._waiting[:number], self._waiting[number:]
        return chosen

    def _count(self, settled: Settled) -> None:
        self._summary.add_settled(settled)
        self._on_settled()
        if settled.stale:
            self._logger.warning(
                "%d outcomes were stale and changed nothing: %s", len(settled.stale), settled.stale[:5]
            )


def _merge(chosen: list[Settlement]) -> tuple[Batch, Outcomes]:
    if len(chosen) == 1:
        return chosen[0].batch, chosen[0].outcomes
    merged, all_outcomes = Batch(), Outcomes()
    for batch, outcomes, _ in chosen:
        begin = len(merged.ids)
        # A settlement needs only the ids and claims of the tasks.
        merged.ids += [batch.ids[p] for p in outcomes.positions]
        merged.claims += [batch.claims[p] for p in outcomes.positions]
        all_outcomes.extend(outcomes)
        all_outcomes.positions[begin:] = range(begin, begin + len(outcomes))
    return merged, all_outcomes


async def _finished(write: Awaitable[T]) -> T:
    """Return the result of ``write``. Whoever is cancelled meanwhile stays until it has ended.

    The statement is already on its way: its tasks must not be handed back as well. A process that ends
    cancels every asyncio task, and the lane does so again when it closes.
    """
    ending = asyncio.ensure_future(write)
    try:
        return await asyncio.shield(ending)
    except asyncio.CancelledError:
        while not ending.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([ending])
        ending.result()  # an error of the write goes before the cancellation
        raise
