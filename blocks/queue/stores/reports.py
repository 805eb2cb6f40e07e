"""What running tasks report, and what of it the next attempt gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from organism_flows.blocks.queue.db.bisection import in_halves, logger, one_line
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.wire import Batch
from organism_flows.blocks.task_report import Checkpoint, TaskReport

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


async def restored(session: Session, ids: Sequence[str], begun: Sequence[bool]) -> list[Checkpoint | None]:
    """Return the checkpoints of tasks that have been claimed.

    Not a part of the claim: that sees the table as it was when it began, so it could miss the checkpoint of
    a holder that has handed the task back since then.

    Args:
        session: Runs the statement.
        ids: Ids of the tasks.
        begun: True for those that a handler is known to have begun. The others have no checkpoint.
    """
    wanted = [task_id for task_id, it in zip(ids, begun, strict=True) if it]
    if not wanted:
        return [None] * len(ids)
    rows = await session.fetch("restored", ids=wanted, timeout=RESTORE_TIMEOUT)
    found = {row["id"]: Checkpoint(row["step"], row["state"]) for row in rows}
    return [found.get(task_id) for task_id in ids]
