"""Handlers that wait for an event, and say what they have got."""

from __future__ import annotations

from typing import Any

from organism_flows import WaitFor
from organism_flows.serve_apps.organism.handler_api.context import Context


def plain(task: dict[str, Any], context: Context) -> Any:
    if context.event is None:
        raise WaitFor("approval", 60)
    return list(context.event)


async def coroutine(task: dict[str, Any], context: Context) -> Any:
    return plain(task, context)


def batched(tasks: list[dict[str, Any]], contexts: list[Context]) -> list[Any]:
    return [list(context.event) if context.event else WaitFor("approval", 60) for context in contexts]
