"""Handlers of the benchmarks. A folder of their own, so that replicas import nothing else from here."""

from __future__ import annotations

import asyncio
import time
from typing import Any


async def noop(task: dict[str, Any]) -> Any:
    """Return the params."""
    return task["params"]


async def begun(task: dict[str, Any]) -> dict[str, float]:
    """Say when it was called, in seconds since the epoch by this machine's clock."""
    return {"at": time.time()}


async def sleep(task: dict[str, Any]) -> None:
    """Take ``params.seconds`` without using the processor."""
    await asyncio.sleep(task["params"]["seconds"])
