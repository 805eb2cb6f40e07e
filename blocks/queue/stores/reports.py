"""What running tasks report, and what of it the next attempt gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from organism_flows.blocks.queue.db.bisection import in_halves, logger, one_line
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.wire import Batch
from organism_flows.blocks.task_report import Checkpoint, EndedWait, TaskReport

RESTORE_TIMEOUT = 10.0


@dataclass(slots=True)
class Recorded:
    """What became of reports, by the claims of their tasks. Those that are missing were stale."""

    further: dict[int, bool] = field(default_factory=dict)
    """Of those that were written: True if the task has never been as far before."""
    refused: dict[int, str] = field(default_factory=dict)
    """Why Postgres refused those that it did."""


class Reports:
    """The reports of running tasks. Each has effect only while its claim is the newest.

    Args:
        database: The queue's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, batch: Batch, reports: Sequence[TaskReport]) -> Recorded:
        """Write reports of tasks of ``batch``, at most one of each task."""
        recorded = Recorded()

        async def write(some: Sequence[TaskReport]) -> None:
            rows = await self._database.fetch(
                "record_reports",
                ids=[batch.ids[report.position] for report in some],
                claims=[batch.claims[report.position] for report in some],
                steps=[report.step for report in some],
                states=[report.state for report in some],
                fractions=[report.progress and report.progress.fraction for report in some],
                notes=[report.progress and report.progress.note for report in some],
                chunks=[report.chunks and f"[{','.join(report.chunks.texts)}]" for report in some],
                run_begins=[report.chunks and report.chunks.run_begin for report in some],
                lasts=[report.chunks and report.chunks.last for report in some],
            )
            recorded.further.update((row["claim"], row["further"]) for row in rows)

        async def refused(report: TaskReport, why: Exception) -> None:
            logger.error("task %s: its report is refused: %s", batch.ids[report.position], one_line(why))
            recorded.refused[batch.claims[report.position]] = one_line(why)

        await in_halves(reports, write, refused)
        return recorded


async def restore(session: Session, batch: Batch, begun: Sequence[bool]) -> None:
    """Add to claimed tasks what their earlier attempts have left: checkpoints, and how their waits ended.

    Not a part of the claim: that sees the table as it was when it began, so it could miss the checkpoint of
    a holder that has handed the task back since then.

    Args:
        session: Runs the statement.
        batch: The tasks.
        begun: True for those that a handler is known to have begun. The others have left nothing.
    """
    batch.checkpoints = [None] * len(batch)
    wanted = {task_id: position for position, task_id in enumerate(batch.ids) if begun[position]}
    if not wanted:
        return
    rows = await session.fetch("restored", ids=list(wanted), timeout=RESTORE_TIMEOUT)
    for row in rows:
        position = wanted[row["id"]]
        if row["state"] is not None:
            batch.checkpoints[position] = Checkpoint(row["step"], row["state"])
        if row["event"] is not None:
            ended = EndedWait(row["event"], row["payload"], row["timed_out"], row["or_fail"])
            batch.waits[batch.claims[position]] = ended
