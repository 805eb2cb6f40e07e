"""A handler that works through units, and a record of what it has done, for tests of one process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from organism_flows.serve_apps.organism.handler_api.context import Context

DONE: Counter[tuple[str, int]] = Counter()
"""How often each unit of each task was done."""
RESUMED: list[int] = []
"""Where each attempt began."""
after_unit: Callable[[int], Any] = lambda _: None  # noqa: E731
"""Called between a unit and its checkpoint."""
after_checkpoint: Callable[[int], Any] = lambda _: None  # noqa: E731
"""Called when the checkpoint of a unit is durable."""
go_on = asyncio.Event()
"""Lets `emit` go on."""


def reset() -> None:
    global after_unit, after_checkpoint, go_on
    go_on = asyncio.Event()
    DONE.clear()
    RESUMED.clear()
    after_unit = after_checkpoint = lambda _: None


async def work(params: dict[str, Any], context: Context) -> Any:
    begin = context.restored or 0
    RESUMED.append(begin)
    for unit in range(begin, params["units"]):
        DONE[context.task_id, unit] += 1
        after_unit(unit)
        await asyncio.sleep(0)
        await context.checkpoint(unit + 1)
        after_checkpoint(unit)
        await asyncio.sleep(0)
    return begin


async def emit(params: dict[str, Any], context: Context) -> Any:
    """Emit the number of each unit, from the start in each attempt, and wait for `go_on` at one of them."""
    for unit in range(params["units"]):
        context.emit(unit)
        await context.checkpoint(unit)
        if unit == params["pause_at"]:
            await go_on.wait()


def once(params: dict[str, Any], context: Context) -> Any:
    """Saves something and fails at once, the first time."""
    if context.restored is None:
        context.progress(0.5, "first")
        context.checkpoint("first")
        raise ValueError("boom")
    return context.restored
