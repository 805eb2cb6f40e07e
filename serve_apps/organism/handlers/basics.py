"""The handlers of built-in task types: ``echo``, ``sleep``, ``count``, and two that report on the replica."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from organism_flows.serve_apps.organism.handler_api.context import Context
from organism_flows.serve_apps.organism.handler_api.errors import PermanentError
from organism_flows.serve_apps.organism.handler_api.introspection import current_organism
from organism_flows.serve_apps.organism.handlers.inputs import params_of, seconds, whole


async def handle(task: dict[str, Any]) -> Any:
    """Run a built-in task.

    ``echo`` returns its params. ``sleep`` waits for ``params.seconds``. ``health_check`` and
    ``get_organism_status`` return the replica's health and status.
    """
    match task["type"]:
        case "echo":
            return params_of(task)
        case "sleep":
            slept = seconds(task, "seconds", most=86_400)
            await asyncio.sleep(slept)
            return {"slept_s": slept}
        case "health_check":
            return current_organism().health()
        case "get_organism_status":
            return current_organism().status()
        case other:
            raise PermanentError(f"type {other!r} is configured for this handler, which does not know it")


async def count(task: dict[str, Any], context: Context) -> dict[str, int]:
    """Count to ``params.to``, with ``params.seconds`` for each number: an example of a long task.

    Emits each number with the id of the process, reports how far it is, and saves it. An attempt after a
    crash continues with the next number.

    Returns:
        ``counted``, and ``began_after``: the number that the last attempt continued from, 0 for the start.
    """
    last = whole(task, "to", most=1_000_000)
    pause_s = seconds(task, "seconds", most=86_400)
    begin: int = context.restored or 0
    for number in range(begin + 1, last + 1):
        await asyncio.sleep(pause_s)
        context.emit({"number": number, "pid": os.getpid()})
        context.progress(number / last, f"{number} of {last}")
        await context.checkpoint(number)
    return {"counted": last, "began_after": begin}
