"""`organism redrive`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.deployments.cli.options import OfDomain, OfType
from organism_flows.deployments.cli.output import AsJson, show
from organism_flows.deployments.cli.own_queue import open_queue

if TYPE_CHECKING:
    from organism_flows.blocks.queue import TaskSummary


async def redrive(
    *,
    type: OfType = None,
    domain: OfDomain = None,
    error: Annotated[
        str | None, Parameter(help="Only with such an error: % is any text, _ any character (SQL LIKE).")
    ] = None,
    since: Annotated[
        datetime | None, Parameter(help="Finished then or later; UTC if it names no zone.")
    ] = None,
    until: Annotated[datetime | None, Parameter(help="Finished then or before.")] = None,
    cancelled: Annotated[bool, Parameter(negative="", help="Cancelled tasks too.")] = False,
    limit: Annotated[int | None, Parameter(help="Most tasks, those that finished first.")] = None,
    from_start: Annotated[
        bool, Parameter(negative="", help="Drop their checkpoints; else each continues from its newest.")
    ] = False,
    yes: Annotated[bool, Parameter(negative="", help="Do it; without this it is only shown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put dead letters back into the queue, with all their attempts again.

    Without --yes it only counts them and shows some. Their history keeps the errors, and the table task_audit
    records who redrove how many.
    """
    import getpass
    import socket

    from organism_flows.blocks.queue import RedriveFilter

    if limit is not None and limit < 1:
        raise ConfigurationError(f"--limit {limit} is not 1 or more", "choose another, or leave it out")
    wanted = RedriveFilter.of(
        type=type, domain=domain, error=error, since=since, until=until, cancelled=cancelled
    )
    async with open_queue() as queue:
        if not yes:
            found = await queue.operator.redrivable(wanted)
            count = found.count if limit is None else min(found.count, limit)
            text = [_line(line) for line in found.sample[:count]]
            text += ["…"] if count > len(text) else []
            text.append(f"{count} tasks would be redriven" + ("; add --yes to do it" if count else ""))
            sample = [line.model_dump(mode="json") for line in found.sample[:count]]
            show({"would_redrive": count, "sample": sample}, as_json, "\n".join(text))
            return
        done = await queue.operator.redrive(
            wanted,
            actor=f"{getpass.getuser()}@{socket.gethostname()}",
            limit=limit,
            from_start=from_start,
        )
    result = {"redriven": done.redriven, "kept_out": done.kept_out, "audit": str(done.audit)}
    line = f"{done.redriven} tasks redriven"
    if done.kept_out:
        line += f", {done.kept_out} left: an unfinished task of their type has the same dedup key"
    show(result, as_json, line)


def _line(task: TaskSummary) -> str:
    error = " ".join((task.error or "").split())
    finished = f"{task.finished_at:%Y-%m-%d %H:%M:%S}" if task.finished_at else "-"
    return f"{task.id}  {finished}  {task.type:20}  {error[:80]}".rstrip()
