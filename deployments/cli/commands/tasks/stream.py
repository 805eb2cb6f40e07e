"""`organism tasks stream`: follow what the handler of a task emits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.cli.output import AsJson, show, without_controls
from organism_flows.deployments.cli.own_queue import open_queue

if TYPE_CHECKING:
    from organism_flows.blocks.queue.models.streams import StreamBegin, StreamChunk


async def stream_task(
    id: str,
    /,
    *,
    joined: Annotated[bool, Parameter(negative="")] = False,
    as_json: AsJson = False,
) -> int:
    """Print what the handler of a task emits, as it does, until the task has ended.

    Begins with the first chunk of the newest attempt. If another attempt begins, a line on standard error
    says so, and its chunks follow. With `--json` each event is a line, and the last one has the status of
    the task. Exits with 1 if the task was not completed.

    Args:
        id: Id of the task, or the beginning of it.
        joined: Print no line end after a chunk that is text, as for the words of an answer.
        as_json: Print the result as JSON, one line an event.
    """
    from contextlib import aclosing

    from organism_flows.blocks.client.messages import TaskStatus
    from organism_flows.blocks.errors import TaskNotFound
    from organism_flows.blocks.queue.models.streams import StreamPlace
    from organism_flows.serve_apps.gateway.stream_watcher import StreamWatcher

    async with open_queue() as queue:
        task = await queue.get(id)
        async with (
            StreamWatcher(queue.reader.streams) as streams,
            aclosing(streams.parts(StreamPlace(task.id))) as parts,
        ):
            async for place, part in parts:
                if part is None:
                    raise TaskNotFound(f"there is no task {task.id} any more", "it was deleted")
                for event in part.events(place):
                    _show(event, joined=joined, as_json=as_json)
                sys.stdout.flush()
    assert part is not None
    status = TaskStatus.of(part.state)
    if as_json:
        show(status, as_json, "")
    elif status.status != "completed":
        print(f"{status.status}: see `organism tasks why {task.id}`", file=sys.stderr)
    return ExitCode.DONE if status.status == "completed" else ExitCode.FAILED


def _show(event: StreamBegin | StreamChunk, *, joined: bool, as_json: bool) -> None:
    from organism_flows.blocks.queue.models.streams import StreamBegin

    if isinstance(event, StreamBegin):
        if as_json:
            show({"claim": event.claim, "attempt": event.attempt}, as_json, "")
        else:
            print(f"attempt {event.attempt} begins", file=sys.stderr)
        return
    value = event.value
    if as_json:
        show({"claim": event.claim, "number": event.number, "chunk": value}, as_json, "")
    elif isinstance(value, str):
        print(without_controls(value), end="" if joined else "\n")
    else:
        print(without_controls(event.text))
