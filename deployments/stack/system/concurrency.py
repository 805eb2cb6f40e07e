"""Steps that run at the same time, and steps that a cancellation does not interrupt."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def all_of(steps: list[Coroutine[Any, Any, None]]) -> None:
    """Run ``steps`` at the same time. The first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``, finished even if we are cancelled. A partial clean-up would be worse."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    return task.result()
