"""redrive: put dead letters back into the queue. By default it only reports which ones it would take."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from prefect import flow, runtime
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import BaseModel, Field

from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.blocks.queue import RedriveFilter, TaskSummary
from organism_flows.flows.prefect_support.markdown import BoardLinks, escaped
from organism_flows.flows.prefect_support.states import EXPECTED_ERRORS, ORGANISM_TAG, failed, show_page

SHOWN = 20
"""Upper bound on the tasks that a dry run shows."""


class RedriveSummary(BaseModel):
    """Result of one run of redrive."""

    dry_run: bool
    found: int | None = None
    """Number of tasks that a dry run would redrive; `None` if the run is not a dry run."""
    redriven: int = 0
    kept_out: int = 0
    """Number of tasks left because an unfinished task of their type has the same ``dedup_key``."""
    audit: UUID | None = None
    """Id of the row in the table ``task_audit``."""


def _run_name() -> str:
    dry = " · dry run" if runtime.flow_run.parameters.get("dry_run", True) else ""
    return f"redrive · {datetime.now():%H:%M}{dry}"


@flow(name="redrive", version=ORGANISM_TAG, flow_run_name=_run_name, persist_result=False, retries=0)
async def redrive(
    type: Annotated[str | None, Field(max_length=200)] = None,
    domain: Annotated[str | None, Field(max_length=200)] = None,
    error: Annotated[str | None, Field(max_length=200)] = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cancelled: bool = False,
    limit: Annotated[int | None, Field(ge=1)] = None,
    from_start: bool = False,
    dry_run: bool = True,
    queue: str = "default",
) -> RedriveSummary:
    """Put dead letters back into the queue. They are ready at once and have all their attempts again.

    Args:
        type: Only tasks of this type.
        domain: Only tasks of this domain.
        error: Only tasks whose error matches this SQL LIKE pattern: % is any text, _ any character.
        since: Only tasks that finished then or later. UTC unless the value has an offset.
        until: Only tasks that finished then or before. Tasks that finish after the run began are never taken.
        cancelled: Redrive cancelled tasks as well.
        limit: Upper bound on the tasks; those that finished first are taken. Empty: all.
        from_start: Drop their checkpoints. Else each continues from its newest one.
        dry_run: Only count the tasks and show some of them.
        queue: Name of the Task Queue block.

    Returns:
        The counts of the run. The history of each task keeps its error. The table ``task_audit`` records who
        redrove how many tasks.

    Raises:
        ConfigurationError: A parameter or the block is wrong.
        QueueUnavailable: Postgres cannot be reached.
    """
    logger = get_run_logger()
    try:
        wanted = RedriveFilter.of(
            type=type, domain=domain, error=error, since=since, until=until, cancelled=cancelled
        )
        block = await TaskQueue.named(queue)
        async with block.open(application_name="organism-redrive", connections=1) as open_queue:
            if dry_run:
                found = await open_queue.operator.redrivable(wanted, sample=SHOWN)
                count = found.count if limit is None else min(found.count, limit)
                summary = RedriveSummary(dry_run=True, found=count)
                line = f"dry run: {count} tasks would be redriven"
                sample = found.sample[:count]
            else:
                actor = f"flow run {runtime.flow_run.name} ({runtime.flow_run.id})"
                done = await open_queue.operator.redrive(
                    wanted, actor=actor, limit=limit, from_start=from_start
                )
                summary = RedriveSummary(
                    dry_run=False, redriven=done.redriven, kept_out=done.kept_out, audit=done.audit
                )
                line = f"{done.redriven} tasks redriven"
                if done.kept_out:
                    line += f", {done.kept_out} left because an unfinished task has their dedup key"
                sample = []
    except EXPECTED_ERRORS as error_met:
        return failed(error_met)  # type: ignore[return-value]
    logger.info(line)
    await show_page(_page(line, wanted, sample, BoardLinks(open_queue.dsn)), key="redrive-summary")
    return Completed(message=line, data=summary)  # type: ignore[return-value]


def _page(line: str, wanted: RedriveFilter, sample: list[TaskSummary], links: BoardLinks) -> str:
    asked = wanted.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    lines = [f"**{line}**", ""]
    lines += [f"- {name}: {escaped(str(value), 200)}" for name, value in asked.items()] or [
        "All dead letters."
    ]
    if sample:
        lines += ["", "| task | type | finished | error |", "|---|---|---|---|"]
        lines += [
            f"| {links.to(task.id)} | {escaped(task.type)} | {task.finished_at:%Y-%m-%d %H:%M} "
            f"| {escaped(task.error, 200)} |"
            for task in sample
        ]
    return "\n".join(lines)
