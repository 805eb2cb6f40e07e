"""Actions on a task, with the question before and the answer after."""

from __future__ import annotations

from typing import Any

from rich.text import Text
from textual.app import App

from organism_flows.blocks.client.async_client import Client
from organism_flows.blocks.errors import OrganismError
from organism_flows.deployments.cli.output import without_controls
from organism_flows.deployments.cli.top.dialogs import Confirm


async def steer(app: App[Any], client: Client, task: str, how: str) -> None:
    """Cancel, retry or run a task. A cancel is asked for twice.

    Args:
        app: Shows the question and the answer.
        client: The way to the queue.
        task: Id of the task.
        how: `cancel`, `retry` or `run`.
    """
    if how == "cancel" and not await app.push_screen_wait(Confirm(Text(f"Cancel {task}?"), "Cancel it")):
        return
    action = {"cancel": client.cancel, "retry": client.retry, "run": client.run}[how]
    try:
        done = await action(task)
    except OrganismError as error:
        app.notify(why_not(error), severity="error", markup=False)
    else:
        app.notify(f"{done.outcome}: {task}", markup=False)


def why_not(error: OrganismError) -> str:
    """Return an error and what to do about it, on one line."""
    said = f"{error.what}{f' → {error.next_step}' if error.next_step else ''}"
    return without_controls(" ".join(said.split()))
