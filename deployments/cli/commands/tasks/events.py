"""`organism tasks signal` and `link`: send events to tasks, and make links by which people send them."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.deployments.cli.output import AsJson, show
from organism_flows.deployments.cli.own_queue import open_queue

WEEK_S = 7 * 86400.0


async def signal(id: str, event: str, payload: str = "null", /, *, as_json: AsJson = False) -> None:
    """Send an event to a task. If the task waits for it, it continues; else the event is kept for it.

    Sent twice, it counts once.

    Args:
        id: Id of the task, or the beginning of its id.
        event: Name of the event.
        payload: JSON that the handler gets with it.
        as_json: Print the result as JSON.
    """
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise ConfigurationError(
            f"the payload is not JSON: {error}",
            """write text as '"text"', an object as '{"choice": "approve"}'""",
        ) from None
    async with open_queue() as queue:
        task = await queue.get(id)
        outcome = await queue.producer.send_event(task.id, event, value)
    words = {
        "resumed": "the task waited for it and continues",
        "kept": "kept until the task waits for it",
        "duplicate": "the task has had it: nothing changes",
    }
    result = {"id": str(task.id), "event": event, "outcome": outcome}
    show(result, as_json, f"{task.id}  {event}: {words[outcome]}")


async def link(
    id: str,
    event: str,
    /,
    *,
    choice: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="Name of a choice; give it several times. Unset: approve and reject."),
    ] = (),
    expires_in: Annotated[float, Parameter(help="Seconds until the links are no longer valid.")] = WEEK_S,
    as_json: AsJson = False,
) -> None:
    """Print a link for each choice. A person who opens one sends the event, once, without a token.

    The event has the payload {"choice": CHOICE}. The gateway makes the links: they begin with its address, as
    the stack or ORGANISM_GATEWAY_URL has it.

    Args:
        id: Id of the task, or the beginning of its id.
        event: Name of the event.
        choice: Names of the choices.
        expires_in: Seconds until the links are no longer valid.
        as_json: Print the result as JSON.
    """
    from organism_flows.blocks.client.async_client import Client

    choices = {"choices": choice} if choice else {}
    async with Client() as client:
        made = await client.answer_links(id, event, expires_in_s=expires_in, **choices)
    width = max(map(len, made.links))
    lines = [f"{name:{width}}  {url}" for name, url in made.links.items()]
    lines.append(f"valid until {made.expires_at:%Y-%m-%d %H:%M:%S %Z}; the first answer counts")
    show(made, as_json, "\n".join(lines))
