"""redrive: dead letters go back into the queue; unless told otherwise, it only says which they would be."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from prefect import flow, runtime
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import BaseModel, Field

from organism_flows.blocks.queue import RedriveFilter, TaskSummary
from organism_flows.blocks.task_queue import TaskQueue
from organism_flows.flows.prefect_support.markdown import TaskLinks, plain
from organism_flows.flows.prefect_support.states import EXPECTED_ERRORS, ORGANISM_TAG, cell, failed, show_page

SHOWN = 20
"""Tasks that a dry run shows."""


class RedriveSummary(BaseModel):
    """What one run of redrive did, or would have done."""

    dry_run: bool
    found: int | None = None
    """Of a dry run: tasks that it would redrive."""
    redriven: int = 0
    kept_out: int = 0
    """Left, because an unfinished task of their type has the same ``dedup_key``."""
    audit: UUID | None = None
    """Id of the row in the table ``task_audit``."""


def _run_name() -> str:
    dry = " · dry run" if runtime.flow_run.parameters.get("dry_run", True) else ""
    return f"redrive · {datetime.now():%H:%M}{dry}"


@flow(name="redrive", version=ORGANISM_TAG, flow_run_name=_run_name, persist_result=False, retries=0)
async def redrive(
    type: Annotated[str | None, Field(max_length=200, description="Only tasks of this type.")] = None,
    domain: Annotated[str | None, Field(max_length=200, description="Only tasks of this domain.")] = None,
    error: Annotated[
        str | None,
        Field(
            max_length=200,
            description="Only tasks with such an error, as SQL LIKE has it: % is any text, _ any character.",
        ),
    ] = None,
    since: Annotated[datetime | None, Field(description="Only tasks that finished then or later.")] = None,
    until: Annotated[datetime | None, Field(description="Only tasks that finished then or before.")] = None,
    cancelled: Annotated[bool, Field(description="Cancelled tasks too, beside the dead letters.")] = False,
    limit: Annotated[
        int | None, Field(ge=1, description="Most tasks, those that finished first; empty: all.")
    ] = None,
    dry_run: Annotated[bool, Field(description="Only say how many there are, and show some.")] = True,
    queue: Annotated[str, Field(description="Name of the Task Queue block.")] = "default",
) -> RedriveSummary:
    """Put dead letters back into the queue: ready at once, with all their attempts before them.

    Args:
        type: Only tasks of this type.
        domain: Only tasks of this domain.
        error: Only tasks with such an error, as SQL LIKE has it: % is any text, _ any character.
        since: Only tasks that finished then or later; of UTC unless it says otherwise.
        until: Only tasks that finished then or before; never any that finishes after the run began.
        cancelled: Cancelled tasks too, beside the dead letters.
        limit: Most tasks, those that finished first; empty: all.
        dry_run: Only say how many there are, and show some.
        queue: Name of the Task Queue block.

    Returns:
        What was done. What the tasks failed with is in their history, who redrove how many in ``task_audit``.

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
                found = await open_queue.redrivable(wanted, sample=SHOWN)
                count = found.count if limit is None else min(found.count, limit)
                summary = RedriveSummary(dry_run=True, found=count)
                line = f"dry run: {count} tasks would be redriven"
                sample = found.sample[:count]
            else:
                actor = f"flow run {runtime.flow_run.name} ({runtime.flow_run.id})"
                done = await open_queue.redrive(wanted, actor=actor, limit=limit)
                summary = RedriveSummary(
                    dry_run=False, redriven=done.redriven, kept_out=done.kept_out, audit=done.audit
                )
                line = f"{done.redriven} tasks redriven"
                if done.kept_out:
                    line += f", {done.kept_out} left beside an unfinished task with their dedup key"
                sample = []
    except EXPECTED_ERRORS as error_met:
        return failed(error_met)  # type: ignore[return-value]
    logger.info(line)
    await show_page(_page(line, wanted, sample, TaskLinks(open_queue.dsn)), key="redrive-summary")
    return Completed(message=line, data=summary)  # type: ignore[return-value]


def _page(line: str, wanted: RedriveFilter, sample: list[TaskSummary], links: TaskLinks) -> str:
    asked = wanted.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    lines = [f"**{line}**", ""]
    lines += [f"- {name}: `{cell(str(value))}`" for name, value in asked.items()] or ["All dead letters."]
    if sample:
        lines += ["", "| task | type | finished | error |", "|---|---|---|---|"]
        lines += [
            f"| {links.to(task.id)} | {plain(task.type)} | {task.finished_at:%Y-%m-%d %H:%M} "
            f"| {plain(task.error, 200)} |"
            for task in sample
        ]
    return "\n".join(lines)
