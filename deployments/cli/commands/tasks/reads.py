"""`organism tasks`: read tasks. The commands that change them are in `control`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.validation import first_error
from organism_flows.deployments.cli.options import OfDomain, OfType
from organism_flows.deployments.cli.output import AsJson, show
from organism_flows.deployments.cli.own_queue import open_queue

if TYPE_CHECKING:
    from organism_flows.blocks.queue import TaskFilter, TaskRow
    from organism_flows.blocks.queue.models.rows import TaskProgress

tasks = App(name="tasks", help="Show tasks, and cancel, retry or pause them.")


Statuses = Annotated[
    tuple[str, ...],
    Parameter(name="--status", negative="", help="Only of this status; give it several times."),
]
Since = Annotated[str | None, Parameter(name="--since", help="Created at this moment or later, ISO 8601.")]
Until = Annotated[str | None, Parameter(name="--until", help="Created before this moment.")]
InError = Annotated[str | None, Parameter(name="--error", help="With this text in the error, in any case.")]


@tasks.command(name="list")
async def list_tasks(
    *,
    status: Statuses = (),
    type: OfType = None,
    domain: OfDomain = None,
    since: Since = None,
    until: Until = None,
    error: InError = None,
    limit: Annotated[int, Parameter(help="Most tasks shown, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the newest tasks that match every option, and count all that match by status."""
    if not 1 <= limit <= 10_000:
        raise ConfigurationError(f"--limit {limit} is not between 1 and 10000", "choose another")
    chosen = _filter(status, type, domain, since, until, error)
    async with open_queue() as queue:
        lines = await queue.reader.page(chosen, limit=limit)
        counts = await queue.reader.counts_of(chosen)
    text = [
        f"{line.id}  {line.status:9}  {_cell(line.type):20}  {_short(line.error)}".rstrip() for line in lines
    ]
    text.append(", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no tasks")
    result = {"counts": counts, "tasks": [line.model_dump(mode="json") for line in lines]}
    show(result, as_json, "\n".join(text))


@tasks.command(name="export")
async def export_tasks(
    *,
    status: Statuses = (),
    type: OfType = None,
    domain: OfDomain = None,
    since: Since = None,
    until: Until = None,
    error: InError = None,
    format: Annotated[
        Literal["jsonl", "csv", "parquet"] | None,
        Parameter(help="Unset: as the name of the file ends, else JSON lines."),
    ] = None,
    output: Annotated[
        str, Parameter(help="A file, or - for standard output.", allow_leading_hyphen=True)
    ] = "-",
    as_json: AsJson = False,
) -> None:
    """Write the tasks that match every option, with their params and results, newest first.

    A file gets its name only when it is complete. It may or may not contain changes made during the export.
    No task is in it twice.
    """
    from organism_flows.deployments.cli.commands.tasks.export import export, format_of

    if as_json and output == "-":
        raise ConfigurationError("--json is about a file, and there is none", "name one with --output")
    chosen = _filter(status, type, domain, since, until, error)
    written_as = format_of(output, format)
    async with open_queue() as queue:
        count = await export(queue, chosen, written_as, output)
    if output != "-":
        result = {"exported": count, "format": written_as, "output": output}
        show(result, as_json, f"{count} tasks exported to {output}")


def _filter(
    status: tuple[str, ...],
    type: str | None,
    domain: str | None,
    since: str | None,
    until: str | None,
    error: str | None,
) -> TaskFilter:
    from pydantic import ValidationError

    from organism_flows.blocks.queue import TaskFilter
    from organism_flows.blocks.queue.models.operations import STATUSES

    if wrong := [name for name in status if name not in STATUSES]:
        raise ConfigurationError(f"there is no status {wrong[0]!r}", f"one of {', '.join(STATUSES)}")
    fields = {
        "status": list(status),
        "type": type,
        "domain": domain,
        "created_since": since,
        "created_until": until,
        "error": error,
    }
    try:
        return TaskFilter.model_validate(fields)
    except ValidationError as invalid:
        options = {"created_since": "since", "created_until": "until"}
        what = first_error(invalid, name=lambda place: f"--{options.get(place, place)}")
        raise ConfigurationError(what, "choose another value") from None


@tasks.command(name="show")
async def show_task(id: str, /, *, as_json: AsJson = False) -> None:
    """Show a task with the history of its attempts.

    Args:
        id: Id of the task, or the beginning of it.
        as_json: Print the result as JSON.
    """
    async with open_queue() as queue:
        task = await queue.get(id)
    show(task, as_json, _describe(task))


@tasks.command(name="why")
async def why_task(id: str, /, *, as_json: AsJson = False) -> None:
    """Show what a task waits for, which lane runs it, or how it ended.

    Args:
        id: Id of the task, or the beginning of it.
        as_json: Print the result as JSON.
    """
    from contextlib import aclosing
    from functools import partial

    from organism_flows.blocks.local_stack.access_token import own_headers
    from organism_flows.blocks.local_stack.stack_state import organism_url
    from organism_flows.blocks.settings import load_settings
    from organism_flows.serve_apps.gateway.organism_link import Coordinator, OrganismByHttp

    settings = load_settings()
    # The same as in the gateway, so that both give the same answer.
    coordinator = Coordinator(
        OrganismByHttp(partial(organism_url, settings), partial(own_headers, settings)), calls=1
    )
    async with open_queue() as queue, aclosing(coordinator):
        why = await queue.reader.why(id, served=await coordinator.types())
    show(why, as_json, "\n".join(filter(None, [why.sentence, why.next_step and f"→ {why.next_step}"])))


def _describe(task: TaskRow) -> str:
    import json

    from organism_flows.blocks.queue.explain import begun_at

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
    elif task.waits_for:
        until = f", until {task.waits_for.until:%Y-%m-%d %H:%M:%S %Z}" if task.waits_for.until else ""
        lines.append(f"waits for  {task.waits_for.event}, since {task.waits_for.since:%H:%M:%S %Z}{until}")
    if task.expires_at and not task.finished_at:
        lines.append(f"expires    {task.expires_at:%Y-%m-%d %H:%M:%S %Z}")
    if task.traceparent:
        lines.append(f"trace      {task.traceparent}")
    if task.key:
        lines.append(f"key        {task.key}")
    if task.dedup_key:
        lines.append(f"dedup key  {task.dedup_key}")
    if task.cancel_requested:
        lines.append("cancel     requested; its handler has been or will be notified")
    if task.locked_by:
        since = f" since {task.locked_at:%H:%M:%S %Z}" if task.locked_at else ""
        lines.append(f"held by    {task.locked_by}{since}, claim {task.claim}")
    if begun := begun_at(task):
        lines.append(f"runs since {begun:%Y-%m-%d %H:%M:%S %Z}")
    if task.progress:
        lines.append(f"progress   {_progress(task.progress)}")
    if task.chunks:
        lines.append(f"stream     {task.chunks:,} chunks: `organism tasks stream {task.id}`")
    if task.error:
        lines.append(f"error      {task.error}")
    lines += [f"params     {text(task.params)}", f"result     {text(task.result)}"]
    for attempt in task.history:
        lines.append(
            f"attempt {attempt.attempt}  {attempt.ended_at:%H:%M:%S}  {attempt.cause}: "
            f"{_short(attempt.error, 200)}"
        )
        if attempt.reach:
            lines.append(f"  {_cell(attempt.reach)}")
        if attempt.log and attempt.log != task.log:
            lines += [f"  {line}" for line in attempt.log.splitlines()]
    if task.log:
        lines += ["log", *(f"  {line}" for line in task.log.splitlines())]
    return "\n".join(lines)


def _progress(progress: TaskProgress) -> str:
    parts = [f"{progress.fraction:.0%}" if progress.fraction is not None else None, progress.note]
    if progress.saved_at:
        parts.append(f"checkpoint {progress.step} saved at {progress.saved_at:%H:%M:%S %Z}")
    return ", ".join(part for part in parts if part) or "-"


def _cell(text: str) -> str:
    return text.replace("\n", "\\n").replace("\t", "\\t")


def _short(error: str | None, length: int = 80) -> str:
    line = " ".join((error or "").split())
    return line if len(line) <= length else line[: length - 1] + "…"
