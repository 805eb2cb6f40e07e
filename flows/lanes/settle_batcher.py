"""The writes of a lane about its tasks: under its lease, those of several calls in one statement."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from organism_flows.blocks.queue import Batch, Outcomes, Queue, Settled
from organism_flows.blocks.queue.stores.reports import Recorded
from organism_flows.blocks.task_report import TaskReport
from organism_flows.flows.lanes.lease import Lease
from organism_flows.flows.lanes.shared_statements import SharedStatements, finished
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.lanes.task_spans import TaskSpans

STATEMENTS_AT_ONCE = 2
"""Upper bound on the statements of one kind in flight. More of them would only be smaller."""
TASKS_A_STATEMENT = 1000


class Settlement(NamedTuple):
    """Outcomes of one call that wait to be written."""

    batch: Batch
    outcomes: Outcomes


class ReportsOfCall(NamedTuple):
    """Reports of one call that wait to be written."""

    batch: Batch
    reports: Sequence[TaskReport]


class SettleBatcher:
    """Writes what becomes of a lane's tasks, and counts it.

    Calls share statements: one by itself costs as much as about 20 tasks. A caller that is cancelled stays
    until its write has ended.

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
        self._settlements = SharedStatements[Settlement, None](
            "settle", self._settle, at_once=STATEMENTS_AT_ONCE, size=TASKS_A_STATEMENT
        )
        self._reports = SharedStatements[ReportsOfCall, Recorded](
            "record", self._record, at_once=STATEMENTS_AT_ONCE, size=TASKS_A_STATEMENT
        )

    async def settle(self, batch: Batch, outcomes: Outcomes) -> None:
        """Write the outcomes of some tasks of ``batch``. Return when Postgres has acknowledged them.

        Raises:
            LaneLost: The lease is over.
        """
        await self._settlements.write(Settlement(batch, outcomes), len(outcomes))

    async def record(self, batch: Batch, reports: Sequence[TaskReport]) -> Recorded:
        """Write what some tasks of ``batch`` have reported. Return when Postgres has acknowledged it.

        Raises:
            LaneLost: The lease is over.
        """
        return await self._reports.write(ReportsOfCall(batch, reports), len(reports))

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
            await finished(self._release(len(batch), release))
            self._spans.released(batch, cause, started_ns)

    async def begun(self, batch: Batch, versions: Mapping[int, str | None]) -> None:
        """Record that handlers have begun with the tasks of ``batch``.

        Raises:
            LaneLost: The lease is over.
        """
        await self._lease.write(partial(self._queue.claims.begun, batch, versions))

    async def close(self) -> None:
        """Wait until everything is written."""
        await self._reports.close()
        await self._settlements.close()

    async def _settle(self, chosen: Sequence[Settlement]) -> list[None]:
        batch, outcomes = _merge(chosen)
        started_ns = time.time_ns()
        settled = await self._lease.write(
            partial(self._queue.claims.settle, self._summary.lane, batch, outcomes)
        )
        self._count(settled)
        self._spans.settled(batch, outcomes, settled.stale, started_ns)
        return [None] * len(chosen)

    async def _record(self, chosen: Sequence[ReportsOfCall]) -> list[Recorded]:
        batch, reports = Batch(), []
        for part, some in chosen:
            for report in some:
                reports.append(report._replace(position=len(batch.ids)))
                batch.ids.append(part.ids[report.position])
                batch.claims.append(part.claims[report.position])
        recorded = await self._lease.write(partial(self._queue.reports.record, batch, reports))
        return [recorded] * len(chosen)

    async def _release(self, tasks: int, release: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        self._summary.add_released(tasks, await self._lease.write(release))

    def _count(self, settled: Settled) -> None:
        self._summary.add_settled(settled)
        self._on_settled()
        if settled.stale:
            self._logger.warning(
                "%d outcomes were stale and changed nothing: %s", len(settled.stale), settled.stale[:5]
            )


def _merge(chosen: Sequence[Settlement]) -> tuple[Batch, Outcomes]:
    if len(chosen) == 1:
        return chosen[0].batch, chosen[0].outcomes
    merged, all_outcomes = Batch(), Outcomes()
    for batch, outcomes in chosen:
        begin = len(merged.ids)
        # A settlement needs only the ids and claims of the tasks.
        merged.ids += [batch.ids[p] for p in outcomes.positions]
        merged.claims += [batch.claims[p] for p in outcomes.positions]
        all_outcomes.extend(outcomes)
        all_outcomes.positions[begin:] = range(begin, begin + len(outcomes))
    return merged, all_outcomes
