"""The page of a dispatch run: its progress, and the tasks that became dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from prefect import runtime
from prefect.artifacts import (
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.events import emit_event

from organism_flows.blocks.queue.models.rows import TaskSummary
from organism_flows.flows.prefect_support.markdown import BoardLinks, escaped

FAILURES_SHOWN = 100


class DispatchProgress:
    """Progress artifact of a run that ends when the queue is empty. It is created when it is first shown.

    Args:
        total: Number of unfinished tasks when the run began.
    """

    def __init__(self, total: int) -> None:
        self._artifact: UUID | None = None
        self._total = max(total, 1)
        self._shown = 0.0

    async def show(self, remaining: int, *, outcome: str | None = None) -> None:
        """Show the number of unfinished tasks or, at the end, the outcome of the run."""
        # Tasks may be submitted during the run: the total grows with them.
        self._total = max(self._total, remaining)
        percent = 100.0 * (1 - remaining / self._total)
        text = outcome or _left(remaining)
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(
                percent, key="dispatch-progress", description=text
            )
        elif outcome or percent != self._shown:
            await aupdate_progress_artifact(self._artifact, percent, description=text)
        self._shown = percent


def _left(tasks: int) -> str:
    return f"{tasks} tasks to go"


async def report_failures(failures: Sequence[TaskSummary], dsn: str) -> None:
    """Show a table of the dead letters on the page and emit an event, if there are any.

    Args:
        failures: The dead letters.
        dsn: Connection URL of their queue.
    """
    if not failures:
        return
    links = BoardLinks(dsn)
    by_error = links.page("The board has them by error", "failures")
    await acreate_table_artifact(
        key="dispatch-failures",
        table=[
            {
                "task": links.to(line.id),
                "type": links.page(escaped(line.type), "failures", type=line.type) or escaped(line.type),
                "attempts": line.attempts,
                "error": escaped(line.error),
            }
            for line in failures
        ],
        description=f"Tasks that became dead letters during this run (newest {FAILURES_SHOWN} at most). "
        f"{by_error or 'See one with `organism tasks show <id>`'}.",
    )
    queue = runtime.flow_run.parameters.get("queue", "default")
    emit_event(
        "organism.dispatch.dead-lettered",
        resource={"prefect.resource.id": f"organism.queue.{queue}", "prefect.resource.name": queue},
        payload={"tasks": len(failures), "by_type": Counter(line.type for line in failures)},
    )
