"""The route that reads what a task emits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse

from organism_flows.blocks.client.messages import TaskStatus
from organism_flows.blocks.queue.models.streams import StreamBegin, StreamPart, StreamPlace
from organism_flows.serve_apps.gateway.dependencies import OF_A_TASK, WAITS, TheParts, TheTask
from organism_flows.serve_apps.gateway.http.json_body import Route
from organism_flows.serve_apps.gateway.stream_watcher import StreamWatcher

EVENTS = "text/event-stream"
SIGN_OF_LIFE_S = 10.0
"""Longest silence, in seconds. Then a comment shows that both sides are there."""

router = APIRouter(prefix="/api/tasks", tags=["tasks"], route_class=Route)


@router.get(
    "/{task_id}/stream",
    summary="Read what a task emits",
    response_class=Response,
    responses={
        200: {"description": "Server-sent events", "content": {EVENTS: {"schema": {"type": "string"}}}},
        **OF_A_TASK,
    },
    dependencies=WAITS,
)
async def stream(
    task: TheTask,
    parts: TheParts,
    last_event_id: Annotated[
        str | None,
        Header(
            pattern="^[0-9]{1,18}-[0-9]{1,18}$",
            description="`id` of the last event that was read: the answer goes on after it.",
        ),
    ] = None,
) -> StreamingResponse:
    """Send what the handler of a task emits as server-sent events, until the task has ended.

    - `begin`: an attempt begins, and with it the stream. What came before no longer counts. The data has its
      `claim` and `attempt`.
    - `chunk`: the data is what the handler has emitted, as JSON.
    - `end`: the task has ended. The data is what `/status` answers. Close a browser's `EventSource` now, or
      it connects again.
    - `gone`: the task no longer exists.

    The `id` of an event is its claim and its number within that. A reader that was cut off sends the last
    one as `Last-Event-ID`, as a browser does by itself, and misses nothing. After 10 s of silence a comment
    comes.
    """
    claim, _, number = (last_event_id or "0-0").partition("-")
    place = StreamPlace(task.id, int(claim), int(number))
    return StreamingResponse(_events(place, parts.streams), media_type=EVENTS)


async def _events(place: StreamPlace, streams: StreamWatcher) -> AsyncIterator[bytes]:
    async with aclosing(streams.parts(place)) as parts:
        following = asyncio.ensure_future(anext(parts, None))
        try:
            while True:
                if not (await asyncio.wait({following}, timeout=SIGN_OF_LIFE_S))[0]:
                    yield b":\n\n"
                    continue
                if (found := following.result()) is None:
                    return
                yield _encoded(*found)
                following = asyncio.ensure_future(anext(parts, None))
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


def _encoded(place: StreamPlace, part: StreamPart | None) -> bytes:
    """Return the events of a part. By hand: models of events would take most of the time of many readers."""
    if part is None:
        return _event("gone", orjson.dumps({"id": str(place.task_id)}).decode())
    lines = []
    for event in part.events(place):
        place = place._replace(claim=event.claim, number=event.number)
        if isinstance(event, StreamBegin):
            data = orjson.dumps({"claim": event.claim, "attempt": event.attempt}).decode()
            lines.append(_event("begin", data, place))
        else:
            lines.append(_event("chunk", event.text, place))
    if part.ended:
        lines.append(_event("end", TaskStatus.of(part.state).model_dump_json(), place))
    return b"".join(lines)


def _event(name: str, data: str, place: StreamPlace | None = None) -> bytes:
    # JSON text has no line breaks of its own.
    event_id = f"id: {place.claim}-{place.number}\n" if place else ""
    return f"event: {name}\ndata: {data}\n{event_id}\n".encode()
