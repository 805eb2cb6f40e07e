"""The routes that submit tasks, list and show them, and wait for them."""

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing, suppress
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Discriminator, Field, Tag
from uuid_utils.compat import uuid7

from organism_flows.blocks.client.messages import (
    PAGE_LIMIT,
    TASKS_LIMIT,
    WAIT_LIMIT_S,
    FieldError,
    MissingTask,
    SubmitResult,
    TaskBody,
    TaskPage,
    TaskStatus,
    WaitRequest,
    WaitResult,
)
from organism_flows.blocks.errors import TaskNotFound
from organism_flows.blocks.queue import Queue, TaskFilter, TaskRow, Why
from organism_flows.blocks.tracing import valid_traceparent
from organism_flows.serve_apps.gateway.dependencies import (
    OF_A_TASK,
    WAITS,
    AppState,
    TaskId,
    TheParts,
    TheQueue,
    TheTask,
    errors,
    gone,
    task,
)
from organism_flows.serve_apps.gateway.http.json_body import Route
from organism_flows.serve_apps.gateway.http.problems import RequestRefused

LINES = "application/x-ndjson"
SIGN_OF_LIFE_S = 10.0
"""Longest silence in an answer of lines, in seconds. Then an empty line shows that both sides are there."""

router = APIRouter(prefix="/api/tasks", tags=["tasks"], route_class=Route)

Tasks = Annotated[
    Annotated[TaskBody, Tag("one")]
    # Stop at the first wrong task: the errors of ten thousand tasks take seconds to make.
    | Annotated[list[TaskBody], Tag("many"), Field(min_length=1, max_length=TASKS_LIMIT, fail_fast=True)],
    Discriminator(lambda body: "many" if isinstance(body, list) else "one"),
]
EXAMPLES: Any = {
    "one": {"value": {"type": "echo", "params": {"n": 1}}},
    "several": {
        "value": [
            {"type": "echo", "params": {"n": 1}, "priority": 5, "dedup_key": "n-1"},
            {"type": "echo", "run_after": "2030-01-01T00:00:00Z", "max_attempts": 3, "timeout_s": 30},
        ]
    },
    "not yet": {"value": {"type": "echo", "run_immediately": False}},
}


@router.post(
    "",
    status_code=201,
    summary="Submit a task, or some",
    responses={
        200: {"model": SubmitResult, "description": "None was added: unfinished tasks have their dedup_keys"},
        **errors("bad-request", "already-submitted", "too-large", "not-json"),
    },
)
async def submit(
    body: Annotated[Tasks, Body(openapi_examples=EXAMPLES)],
    queue: TheQueue,
    request: Request,
    response: Response,
) -> SubmitResult:
    """Add tasks to the queue, all or none.

    If an unfinished task of the same type has the same `dedup_key`, the task is not added. The answer then
    says `deduplicated` and has the id of that unfinished task.

    A trace in the header `traceparent` (W3C) goes on in the tasks.
    """
    tasks = body if isinstance(body, list) else [body]
    # Ids are made here: where the queue returns another id, the task was not added.
    for new in tasks:
        new.id = new.id or uuid7()
    traceparent = valid_traceparent(request.headers.get("traceparent"))
    ids = await queue.submit(tasks, traceparent=traceparent)
    kept_out = [known_as != task.id for known_as, task in zip(ids, tasks, strict=True)]
    if all(kept_out):
        response.status_code = 200
    if len(ids) == 1:
        response.headers["Location"] = f"{request.scope.get('root_path', '')}/api/tasks/{ids[0]}"
    added = [{"id": i, "deduplicated": kept} for i, kept in zip(ids, kept_out, strict=True)]
    return SubmitResult.model_validate({"added": kept_out.count(False), "tasks": added})


# The pattern is described only, not validated: the error of `place_of` is clearer.
Cursor = Annotated[str, Field(max_length=100, json_schema_extra={"pattern": "^[A-Za-z0-9_-]{22}$"})]


class ListQuery(TaskFilter):
    """Which tasks to list, and which page of them."""

    limit: int = Field(default=50, ge=1, le=PAGE_LIMIT, description="Most tasks of a page.")
    cursor: Cursor | None = Field(default=None, description="`next` of the page before.")


@router.get("", summary="List tasks", responses=errors())
async def list_tasks(query: Annotated[ListQuery, Query()], queue: TheQueue) -> TaskPage:
    """Return the tasks that fit all filters, in falling order of ids.

    The newest come first as far as ids grow with time. Going from page to page shows no task twice and leaves
    none out, whatever is submitted meanwhile.
    """
    before = place_of(query.cursor) if query.cursor is not None else None
    # One task more than asked for shows whether there is another page.
    lines = await queue.reader.page(query, before=before, limit=query.limit + 1)
    more = len(lines) > query.limit
    lines = lines[: query.limit]
    return TaskPage(tasks=lines, next=cursor_of(lines[-1].id) if more else None)


@router.post(
    "/wait",
    summary="Wait for many tasks",
    response_class=Response,
    responses={
        200: {"description": "JSON lines", "content": {LINES: {"schema": {"type": "string"}}}},
        **errors("bad-request", "too-large", "not-json"),
    },
    dependencies=WAITS,
)
async def wait_for_many(order: WaitRequest, queue: TheQueue, parts: TheParts) -> StreamingResponse:
    """Answer with a line of JSON for each task as it ends, in the form of `GET /api/tasks/{task_id}/wait`.

    When the time is up, the other tasks follow with `finished: false`, and the answer ends. A task that does
    not exist, or no longer exists, is `{"id": ..., "gone": true}`. After 10 s of silence an empty line comes,
    which has no meaning. An answer that ends before every task has its line was cut off: ask again for the
    missing ones.
    """
    return StreamingResponse(_lines(order, queue, parts), media_type=LINES)


async def _lines(order: WaitRequest, queue: Queue, parts: AppState) -> AsyncIterator[bytes]:
    left = dict.fromkeys(order.ids)
    deadline = time.monotonic() + order.timeout
    async with aclosing(parts.waiting.ends(left)) as ends:
        following = asyncio.ensure_future(anext(ends, None))
        try:
            while left and (pause := min(deadline - time.monotonic(), SIGN_OF_LIFE_S)) > 0:
                if not (await asyncio.wait({following}, timeout=pause))[0]:
                    yield b"\n"
                    continue
                for task_id in following.result() or {}:
                    del left[task_id]
                    yield await _line(task_id, queue)
                following = asyncio.ensure_future(anext(ends, None))
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
    for task_id in left:
        yield await _line(task_id, queue)


async def _line(task_id: UUID, queue: Queue) -> bytes:
    try:
        outcome: WaitResult | MissingTask = WaitResult.of(await queue.get(str(task_id)))
    except TaskNotFound:
        outcome = MissingTask(id=task_id, gone=True)
    return outcome.model_dump_json().encode() + b"\n"


@router.get("/cancel", include_in_schema=False)
@router.get("/wait", include_in_schema=False)
@router.get("/redrive", include_in_schema=False)
@router.get("/retry", include_in_schema=False)
async def only_posted() -> None:
    """Refuse to read these words as ids of tasks."""
    raise HTTPException(405)


@router.get("/{task_id}", summary="Show a task", response_model=TaskRow, responses=OF_A_TASK)
async def show(task_id: TaskId, request: Request) -> Response:
    """Return a task with its params, its result and the history of its attempts."""
    found = await task(task_id, request)
    # The route that is asked most. FastAPI would validate the row once more.
    return Response(found.model_dump_json(), media_type="application/json")


@router.get("/{task_id}/status", summary="How a task stands", responses=OF_A_TASK)
async def status(task: TheTask) -> TaskStatus:
    """Return the status and progress of a task, without its params, result and history."""
    return TaskStatus.of(task)


@router.get("/{task_id}/why", summary="What a task waits for", responses=OF_A_TASK)
async def why(task_id: TaskId, queue: TheQueue, parts: TheParts) -> Why:
    """Return what a task waits for, who runs it, or how it ended: in one sentence, and as data."""
    return await queue.reader.why(task_id, served=await parts.coordinator.types())


@router.get("/{task_id}/wait", summary="Wait for a task", responses=OF_A_TASK, dependencies=WAITS)
async def wait(
    task: TheTask,
    queue: TheQueue,
    parts: TheParts,
    request: Request,
    timeout: Annotated[
        float, Query(ge=0, le=WAIT_LIMIT_S, allow_inf_nan=False, description="Longest wait in seconds.")
    ] = 30,
) -> WaitResult:
    """Answer when the task has ended or the time is up; `finished` is False if the time was up."""

    async def end() -> None:
        async with aclosing(parts.waiting.changes(task.id)) as changes:
            async for _ in changes:
                pass

    waiters = {asyncio.create_task(end()), asyncio.create_task(gone(request))}
    try:
        await asyncio.wait(waiters, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
    return WaitResult.of(await queue.get(str(task.id)))


@router.get(
    "/{task_id}/events",
    summary="Watch a task",
    response_class=EventSourceResponse,
    responses=OF_A_TASK,
    dependencies=WAITS,
)
async def events(task: TheTask, parts: TheParts) -> AsyncIterable[ServerSentEvent]:
    """Send server-sent events `status`: one now and one for each change, until the task has ended.

    Progress that its handler reports is a change. Of several changes within about 20 ms only the last is
    sent. The data is what `/status` answers. Close a browser's `EventSource` when `finished` is true, or it
    connects again.
    """
    async with aclosing(parts.waiting.changes(task.id)) as changes:
        async for state in changes:
            if state is None:
                yield ServerSentEvent(event="gone", data={"id": str(task.id)})
            else:
                yield ServerSentEvent(event="status", data=TaskStatus.of(state))


def cursor_of(place: UUID) -> str:
    """Return the cursor of the page after the row with this id."""
    return base64.urlsafe_b64encode(place.bytes).rstrip(b"=").decode()


def place_of(cursor: str) -> UUID:
    """Return the id of the last row of the page before.

    Raises:
        RequestRefused: It is no cursor of this gateway.
    """
    try:
        return UUID(bytes=base64.b64decode(cursor.encode() + b"==", altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        raise RequestRefused(
            "invalid",
            "query.cursor: is no cursor of this gateway",
            next_step="give `next` of the page before",
            errors=[FieldError(field="query.cursor", message="is no cursor of this gateway", value=cursor)],
        ) from None
