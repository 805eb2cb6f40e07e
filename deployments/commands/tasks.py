"""`organism tasks`: look at tasks; `deployments.commands.control` steers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from blocks.errors import ConfigurationError
from deployments.output import AsJson, show

if TYPE_CHECKING:
    from blocks.queue import Queue, TaskRow

tasks = App(name="tasks", help="Look at tasks and steer them.")


@tasks.command(name="list")
async def list_tasks(
    *,
    status: Annotated[str | None, Parameter(help="Only of this status.")] = None,
    type: Annotated[str | None, Parameter(help="Only of this type.")] = None,
    domain: Annotated[str | None, Parameter(help="Only of this domain.")] = None,
    limit: Annotated[int, Parameter(help="Most tasks shown, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the newest tasks, and count all by status."""
    from blocks.queue.models import STATUSES

    if status is not None and status not in STATUSES:
        raise ConfigurationError(f"there is no status {status!r}", f"one of {', '.join(STATUSES)}")
    if not 1 <= limit <= 10_000:
        raise ConfigurationError(f"--limit {limit} is not between 1 and 10000", "choose another")
    async with open_queue() as queue:
        lines = await queue.list_tasks(status=status, type=type, domain=domain, limit=limit)
        counts = await queue.counts()
    text = [
        f"{line.id}  {line.status:9}  {_cell(line.type):20}  {_short(line.error)}".rstrip() for line in lines
    ]
    text.append(", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no tasks")
    result = {"counts": counts, "tasks": [line.model_dump(mode="json") for line in lines]}
    show(result, as_json, "\n".join(text))


@tasks.command(name="show")
async def show_task(id: str, /, *, as_json: AsJson = False) -> None:
    """Show a task with the history of its attempts.

    Parameters
    ----------
    id
        Its id, or the beginning of it.
    """
    async with open_queue() as queue:
        task = await queue.get(id)
    show(task, as_json, _describe(task))


@tasks.command(name="why")
async def why_task(id: str, /, *, as_json: AsJson = False) -> None:
    """Say what a task waits for, who runs it, or how it ended.

    Parameters
    ----------
    id
        Its id, or the beginning of it.
    """
    from contextlib import aclosing
    from functools import partial

    from blocks.access import own_headers
    from blocks.settings import load_settings
    from blocks.stack import organism_url
    from serve_apps.gateway.organism import Coordinator, OrganismByHttp

    settings = load_settings()
    # As the gateway does, so that both say the same.
    coordinator = Coordinator(
        OrganismByHttp(partial(organism_url, settings), partial(own_headers, settings)), calls=1
    )
    async with open_queue() as queue, aclosing(coordinator):
        why = await queue.why(id, served=await coordinator.types())
    show(why, as_json, "\n".join(filter(None, [why.sentence, why.next_step and f"→ {why.next_step}"])))


def open_queue() -> Queue:
    """The configured queue, for one command."""
    from blocks.queue import Queue
    from blocks.settings import load_settings
    from blocks.stack import queue_dsn

    return Queue(queue_dsn(load_settings()).get_secret_value(), connections=1)


def _describe(task: TaskRow) -> str:
    import json

    from blocks.queue.why import begun_at

    def text(value: Any) -> str:
        # Not orjson, which refuses integers beyond 64 bits.
        return json.dumps(value, indent=2, ensure_ascii=False) if value is not None else "-"

    lines = [
        f"{task.type}  {task.id}",
        f"status     {task.status}, attempt {task.attempts} of {task.max_attempts}"
        + (f", {task.timed_out} timed out" if task.timed_out else "")
        + (f", {task.lease_lost} lost with their lane" if task.lease_lost else "")
        + (f", interrupted {task.interrupted} times" if task.interrupted else "")
        + (f", replicas that died with it: {task.suspicion}" if task.suspicion else ""),
        f"created    {task.created_at:%Y-%m-%d %H:%M:%S %Z}",
    ]
    if task.finished_at:
        took = f", {task.elapsed_ms:.1f} ms in organ {task.organ_id}" if task.elapsed_ms is not None else ""
        lines.append(f"finished   {task.finished_at:%Y-%m-%d %H:%M:%S %Z}{took}")
    elif task.status in ("queued", "retry"):
        lines.append(f"due        {task.run_after:%Y-%m-%d %H:%M:%S %Z}")
    if task.dedup_key:
        lines.append(f"dedup key  {task.dedup_key}")
    if task.cancel_requested:
        lines.append("cancel     requested; its handler has been or will be told")
    if task.locked_by:
        since = f" since {task.locked_at:%H:%M:%S %Z}" if task.locked_at else ""
        lines.append(f"held by    {task.locked_by}{since}, claim {task.claim}")
    if begun := begun_at(task):
        lines.append(f"runs since {begun:%Y-%m-%d %H:%M:%S %Z}")
    if task.error:
        lines.append(f"error      {task.error}")
    lines += [f"params     {text(task.params)}", f"result     {text(task.result)}"]
    for attempt in task.history:
        lines.append(
            f"attempt {attempt.attempt}  {attempt.ended_at:%H:%M:%S}  {attempt.cause}: "
            f"{_short(attempt.error, 200)}"
        )
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("\n", "\\n").replace("\t", "\\t")


def _short(error: str | None, length: int = 80) -> str:
    line = " ".join((error or "").split())
    return line if len(line) <= length else line[: length - 1] + "…"
