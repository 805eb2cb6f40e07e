"""Handlers of the benchmarks. A folder of their own, so that replicas import nothing else from here."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any


async def noop(task: dict[str, Any]) -> Any:
    """Return the params."""
    return task["params"]


async def saves(task: dict[str, Any], context: Any) -> Any:
    """Save five states, and return the params."""
    for unit in range(5):
        context.checkpoint(unit)
    return task["params"]


async def durable(task: dict[str, Any], context: Any) -> None:
    """Save ``params.units`` states, and wait for each until it is durable."""
    for unit in range(task["params"]["units"]):
        await context.checkpoint(unit)


async def emits(task: dict[str, Any], context: Any) -> Any:
    """Emit five chunks, and return the params."""
    for unit in range(5):
        context.emit(unit)
    return task["params"]


async def begun(task: dict[str, Any]) -> dict[str, float]:
    """Say when it was called, in seconds since the epoch by this machine's clock."""
    return {"at": time.time()}


async def sleep(task: dict[str, Any]) -> None:
    """Take ``params.seconds`` without using the processor."""
    await asyncio.sleep(task["params"]["seconds"])


async def marked(task: dict[str, Any]) -> int:
    """Append the number of the task, the time and the process to the file ``params.runs``, and take 50 ms."""
    params = task["params"]
    with open(params["runs"], "ab", buffering=0) as runs:  # noqa: ASYNC230
        runs.write(f"{params['number']} {time.time()} {os.getpid()}\n".encode())
    await asyncio.sleep(0.05)
    number: int = params["number"]
    return number


async def busy(task: dict[str, Any]) -> None:
    """Use the processor for ``params.ms`` milliseconds of processor time."""
    until = time.thread_time() + task["params"]["ms"] / 1000
    while time.thread_time() < until:
        pass


async def noop_with_context(task: dict[str, Any], context: Any) -> Any:
    """Return the params, and take a context."""
    return task["params"]


async def noop_batch(tasks: list[dict[str, Any]]) -> list[Any]:
    """Return the params of each."""
    return [task["params"] for task in tasks]


def noop_plain(task: dict[str, Any]) -> Any:
    """Return the params, in a thread."""
    return task["params"]


def noop_plain_batch(tasks: list[dict[str, Any]]) -> list[Any]:
    """Return the params of each, in a thread."""
    return [task["params"] for task in tasks]


async def broken(task: dict[str, Any]) -> None:
    """Fail as a release does that cannot read its input."""
    raise ValueError(f"cannot decode /data/{task['task_id']}: bad marker at byte {len(task['task_id'])}")
