"""What the routes share: the parts of the running app, and the descriptions of errors in its API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request
from prometheus_client import CollectorRegistry

from organism_flows.blocks.client.messages import PROBLEM_TYPE
from organism_flows.blocks.queue import Queue, TaskRow
from organism_flows.serve_apps.gateway.board.failures import FailureLists
from organism_flows.serve_apps.gateway.board.overview import Overviews
from organism_flows.serve_apps.gateway.database import Database
from organism_flows.serve_apps.gateway.http.answer_links import LinkSigner
from organism_flows.serve_apps.gateway.http.concurrency_limit import ConcurrencyLimit
from organism_flows.serve_apps.gateway.http.problems import TITLES
from organism_flows.serve_apps.gateway.http.sessions import Sessions
from organism_flows.serve_apps.gateway.http.tokens import OwnToken, TokenFile
from organism_flows.serve_apps.gateway.metrics.metrics import QueueMetrics
from organism_flows.serve_apps.gateway.organism_link import Coordinator
from organism_flows.serve_apps.gateway.stream_watcher import StreamWatcher
from organism_flows.serve_apps.gateway.task_watcher import TaskWatcher


@dataclass
class AppState:
    """The parts of the app."""

    database: Database
    waiting: TaskWatcher
    streams: StreamWatcher
    metrics: QueueMetrics
    registry: CollectorRegistry
    coordinator: Coordinator
    waits: ConcurrencyLimit
    exports: ConcurrencyLimit
    tokens: TokenFile | OwnToken | None
    """`None` means that no token is needed."""
    sessions: Sessions
    links: LinkSigner | None
    """`None` means that no key is known to sign links with."""
    overviews: Overviews
    failures: FailureLists


# All of these are coroutines: FastAPI runs other functions in a thread, which takes longer than a statement.
# None depends on another, because each dependency costs as much as some routes do.


async def parts(request: Request) -> AppState:
    """Return the parts of the app that received the request."""
    found: AppState = request.app.state.parts
    return found


async def queue(request: Request) -> Queue:
    """Return the queue.

    Raises:
        OrganismError: The queue is not open yet; the client gets 503.
    """
    found: AppState = request.app.state.parts
    return found.database.queue


async def wait_slot(request: Request) -> AsyncIterator[None]:
    """Count a request that waits, until it is answered.

    Raises:
        RequestRefused: Too many requests wait already; the client gets 429.
    """
    found: AppState = request.app.state.parts
    with found.waits.taken(str(request.state.who)):
        yield


async def gone(request: Request) -> None:
    """Return when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def show_change(request: Request) -> None:
    """Have the board look again, because a request has changed something."""
    found: AppState = request.app.state.parts
    found.overviews.forget()
    found.failures.forget()


async def record(request: Request, action: str, details: dict[str, Any], *, tasks: int = 0) -> None:
    """Leave a row in the audit for what a request has done, and have the board look again."""
    found: AppState = request.app.state.parts
    show_change(request)
    actor = f"gateway: {request.state.who}"
    await found.database.queue.board.record(action, actor, details, tasks=tasks)


TheParts = Annotated[AppState, Depends(parts)]
TheQueue = Annotated[Queue, Depends(queue)]
WAITS = [Depends(wait_slot)]
"""Dependencies of routes that keep a connection for long."""
TaskId = Annotated[
    str,
    Path(
        description="Id of a task, or a beginning of it that no other has.",
        # Described only, not validated: the queue's error is clearer.
        json_schema_extra={"pattern": "^-*([0-9A-Fa-f]-*){1,32}$"},
        examples=["019a8c6e-2f3b-7c41-9d5a-6b7c8d9e0f12", "019a8c6e2f3b"],
    ),
]


async def task(task_id: TaskId, request: Request) -> TaskRow:
    """Return the task whose id is in the path."""
    return await (await queue(request)).get(task_id)


TheTask = Annotated[TaskRow, Depends(task)]


def errors(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses for the problems that a route may answer with.

    Args:
        *kinds: Keys of `TITLES`, in addition to the problems that every route may answer with.
    """
    described: dict[int | str, dict[str, Any]] = {}
    for kind in ("unauthenticated", "forbidden", *kinds, "invalid", "too-many", "unavailable"):
        status, title = TITLES[kind]
        known = described.get(status)
        described[status] = {
            "description": f"{known['description']}; {title}" if known else title,
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return described


OF_A_TASK = errors("not-found", "ambiguous-id")
