"""The page behind a signed link, on which a person answers a task. It needs no token."""

from html import escape

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from organism_flows.blocks.errors import EventRefused, TaskNotFound
from organism_flows.serve_apps.gateway.dependencies import TheParts, TheQueue
from organism_flows.serve_apps.gateway.http.answer_links import PATH, STYLE, Answer

INVALID = (404, "This link is not valid", "It is incomplete, or another system has made it.")
EXPIRED = (410, "This link has expired", "Ask whoever sent it for a new one.")
GONE = (410, "This task is no longer there", "There is nothing left to answer.")
ANSWERED = (409, "This has been answered already", "The first answer counts. Yours changes nothing.")

router = APIRouter(prefix=PATH, include_in_schema=False)


@router.get("/{link}")
async def ask(link: str, parts: TheParts, queue: TheQueue) -> HTMLResponse:
    """Return a page with a button. Only the button answers: mail programs open links by themselves."""
    answer = await _read(link, parts, queue)
    if not isinstance(answer, Answer):
        return _page(*answer)
    try:
        task = await queue.get(str(answer.task_id))
    except TaskNotFound:
        return _page(*GONE)
    if await queue.reader.sent_event(task.id, answer.event):
        return _page(*ANSWERED)
    about = f"Task {task.id} of type {task.type} asks: {answer.event}. {task.description or ''}"
    return _page(200, f"{answer.event}: {answer.choice}?", about, button=answer.choice)


@router.post("/{link}")
async def answer(link: str, parts: TheParts, queue: TheQueue) -> HTMLResponse:
    """Send the event of the link."""
    answer = await _read(link, parts, queue)
    if not isinstance(answer, Answer):
        return _page(*answer)
    try:
        effect = await queue.producer.send_event(answer.task_id, answer.event, {"choice": answer.choice})
    except TaskNotFound:
        return _page(*GONE)
    except EventRefused as error:
        return _page(409, "This needs no answer any more", f"{error.what}.")
    if effect == "duplicate":
        return _page(*ANSWERED)
    then = "The task continues." if effect == "resumed" else "The task gets it when it asks for it."
    return _page(200, f"Your answer is recorded: {answer.choice}", f"{then} You may close this page.")


async def _read(link: str, parts: TheParts, queue: TheQueue) -> Answer | tuple[int, str, str]:
    """Return what a link answers, or the page that says why it does not."""
    answer = parts.links.read(link) if parts.links is not None else None
    if answer is None:
        return INVALID
    return answer if answer.expires_at > await queue.reader.now() else EXPIRED


def _page(status: int, title: str, text: str, *, button: str | None = None) -> HTMLResponse:
    form = f'<form method="post"><button>{escape(button)}</button></form>' if button else ""
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1><p>{escape(text)}</p>{form}</html>",
        status,
    )
