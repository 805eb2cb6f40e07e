"""Several steps at once, and a step that nothing interrupts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def all_of(steps: list[Coroutine[Any, Any, None]]) -> None:
    """Run ``steps`` at once; the first failure cancels the others and is the one that is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Finish ``work`` even when we are cancelled meanwhile; half a clean-up is worse than a late one."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    return task.result()
