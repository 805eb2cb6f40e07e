"""The routes that send events to tasks, and make the links by which people send them."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Path, Request

from organism_flows.blocks.client.event_messages import (
    AnswerLinks,
    AnswerLinksRequest,
    EventRequest,
    EventResult,
)
from organism_flows.blocks.queue import FINISHED
from organism_flows.blocks.queue.models.fields import EventName
from organism_flows.serve_apps.gateway.dependencies import (
    OF_A_TASK,
    TheParts,
    TheQueue,
    TheTask,
    errors,
    show_change,
)
from organism_flows.serve_apps.gateway.http.answer_links import PATH, Answer
from organism_flows.serve_apps.gateway.http.json_body import Route
from organism_flows.serve_apps.gateway.http.problems import RequestRefused

RESPONSES = {
    **OF_A_TASK,
    **errors("not-found", "ambiguous-id", "conflict", "bad-request", "too-large", "not-json"),
}
TheEvent = Annotated[EventName, Path(description="Name of the event.")]

router = APIRouter(prefix="/api/tasks", tags=["events"], route_class=Route)


@router.post("/{task_id}/events/{event}", summary="Send an event to a task", responses=RESPONSES)
async def send_event(
    task: TheTask,
    event: TheEvent,
    queue: TheQueue,
    request: Request,
    body: Annotated[EventRequest | None, Body()] = None,
) -> EventResult:
    """Send an event: a task that waits for it continues, any other keeps it until it does.

    Sent twice, it counts once, and the first payload stays. For a task that has ended, the answer is a
    conflict.
    """
    outcome = await queue.producer.send_event(task.id, event, body.payload if body else None)
    show_change(request)
    status = (await queue.get(str(task.id))).status
    return EventResult(id=task.id, event=event, outcome=outcome, status=status)


@router.post("/{task_id}/links/{event}", summary="Make links for a person to answer", responses=RESPONSES)
async def make_links(
    task: TheTask,
    event: TheEvent,
    queue: TheQueue,
    request: Request,
    parts: TheParts,
    body: Annotated[AnswerLinksRequest | None, Body()] = None,
) -> AnswerLinks:
    """Return one link for each choice. Whoever opens one can send the event, once, without a token.

    The event has the payload `{"choice": CHOICE}`.
    """
    if parts.links is None:
        raise RequestRefused(
            "conflict", "this gateway has no key to sign links with", next_step="set ORGANISM_LINK_KEY"
        )
    if task.status in FINISHED:
        raise RequestRefused("conflict", f"task {task.id} is {task.status} and takes no more events")
    asked = body or AnswerLinksRequest()
    expires_at = await queue.reader.now() + timedelta(seconds=asked.expires_in_s)
    base = str(request.base_url).rstrip("/") + PATH
    links = {
        choice: f"{base}/{parts.links.sign(Answer(task.id, event, choice, expires_at))}"
        for choice in asked.choices
    }
    return AnswerLinks(id=task.id, event=event, links=links, expires_at=expires_at)
