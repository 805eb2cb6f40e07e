"""The handler of the built-in task types: ``echo``, ``sleep``, and two that report on the replica."""

from __future__ import annotations

import asyncio
from typing import Any

from organism_flows.serve_apps.organism.handler_api.errors import PermanentError
from organism_flows.serve_apps.organism.handler_api.introspection import current_organism
from organism_flows.serve_apps.organism.handlers.inputs import params_of, seconds


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
