"""Handlers that report while they run. Each works through the units of its params."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from organism_flows.blocks.errors import MustLeave, StaleClaim, StreamFull
from organism_flows.serve_apps.organism.handler_api.context import Context

GO = threading.Event()
"""Lets `stuck` handlers go on."""
CAUGHT: list[str] = []
"""What `catching` has caught."""


def plain(params: dict[str, Any], context: Context) -> Any:
    """Each unit saves its number; the result says where it began."""
    begin = context.restored or 0
    for unit in range(begin, params["units"]):
        context.checkpoint(unit + 1)
    return {"began": begin}


async def coroutine(params: dict[str, Any], context: Context) -> Any:
    begin = context.restored or 0
    for unit in range(begin, params["units"]):
        await context.checkpoint(unit + 1)
    return {"began": begin}


def waiting(params: dict[str, Any], context: Context) -> Any:
    begin = context.restored or 0
    for unit in range(begin, params["units"]):
        context.checkpoint(unit + 1).wait()
    return {"began": begin}


def batched(tasks: list[dict[str, Any]], contexts: list[Context]) -> list[Any]:
    for task, context in zip(tasks, contexts, strict=True):
        assert task["task_id"] == context.task_id
        context.checkpoint({"of": task["params"]["name"]})
    return [context.restored for context in contexts]


def wrong(params: dict[str, Any], context: Context) -> Any:
    """Says what each state that cannot be saved led to."""
    context.checkpoint("good")
    said = []
    for state in (float("nan"), "\x00", {1, 2}, "x" * 300_000, None):
        try:
            context.checkpoint(state)
        except ValueError as error:
            said.append(str(error))
    return said


def progressing(params: dict[str, Any], context: Context) -> Any:
    context.progress(0.25, "first")
    context.progress(float("nan"), "a\x00b" + "c" * 500)
    context.progress("no number", "x")  # type: ignore[arg-type]
    context.progress(7, "last")


async def caught(params: dict[str, Any], context: Context) -> Any:
    """Waits for a checkpoint that never becomes durable."""
    try:
        await context.checkpoint(1)
    except StaleClaim as error:
        CAUGHT.append(str(error))
        raise


def stuck(params: dict[str, Any], context: Context) -> Any:
    """Saves something when it is let go, whatever became of its task."""
    context.checkpoint("before")
    GO.wait(60)
    try:
        context.checkpoint("after")
    except StaleClaim as error:
        CAUGHT.append(str(error))


def fails(params: dict[str, Any], context: Context) -> Any:
    context.checkpoint("before it fails")
    raise ValueError("boom")


def idle(params: dict[str, Any], context: Context) -> Any:
    """Saves the state that it was given, again and again: it gets no further."""
    for _ in range(5):
        context.checkpoint(context.restored or "first")


async def slow(params: dict[str, Any], context: Context) -> Any:
    context.checkpoint("slow")
    await asyncio.Event().wait()


async def leaves(params: dict[str, Any], context: Context) -> Any:
    """Works until it must leave, and says how far it is."""
    if context.restored:
        return context.restored
    context.progress(note="begun")
    await context.must_leave
    assert context.must_leave.deadline is not None
    context.checkpoint("left in time")
    raise MustLeave("not finished")


def leaves_thread(params: dict[str, Any], context: Context) -> Any:
    context.progress(note="begun")
    assert context.must_leave.wait(60)
    context.checkpoint("left in time")
    raise MustLeave("not finished")


async def unaware(params: dict[str, Any], context: Context) -> Any:
    """Knows nothing of leaving, and waits for each checkpoint."""
    for unit in range(1_000_000):
        await context.checkpoint(unit + 1)


def without_need(params: dict[str, Any], context: Context) -> Any:
    assert not context.must_leave
    raise MustLeave("I want to")


def emits(params: dict[str, Any], context: Context) -> None:
    for unit in range(params["units"]):
        context.emit({"unit": unit})


async def emits_coroutine(params: dict[str, Any], context: Context) -> None:
    for unit in range(params["units"]):
        context.emit({"unit": unit})
        await asyncio.sleep(0)


def emits_and_fails_together(tasks: list[dict[str, Any]], contexts: list[Context]) -> list[None]:
    """Emits the name of each task and, if there are several, fails as a whole when it is let go."""
    for task, context in zip(tasks, contexts, strict=True):
        context.emit(task["params"]["name"])
    if len(tasks) > 1:
        GO.wait(60)
        raise ValueError("not together")
    return [None] * len(tasks)


def emits_batched(tasks: list[dict[str, Any]], contexts: list[Context]) -> list[None]:
    """Fails as a whole if there are several tasks, after it has emitted for each."""
    for task, context in zip(tasks, contexts, strict=True):
        for unit in range(task["params"]["units"]):
            context.emit({"unit": unit})
    if len(tasks) > 1 and tasks[0]["params"].get("fails"):
        raise ValueError("not together")
    return [None] * len(tasks)


def emits_too_much(params: dict[str, Any], context: Context) -> list[str]:
    """Returns what each chunk that cannot be kept led to, and goes on."""
    said = []
    for chunk in (float("nan"), "\x00", "x" * 70_000):
        try:
            context.emit(chunk)
        except ValueError as error:
            said.append(str(error))
    try:
        for _ in range(100):
            context.emit("x" * 60_000)
    except StreamFull as error:
        said.append(str(error))
    context.emit("small")
    return said


def emits_late(params: dict[str, Any], context: Context) -> None:
    """Emits something when it is let go, whatever became of its task."""
    context.emit("before")
    GO.wait(60)
    try:
        context.emit("after")
    except StaleClaim as error:
        CAUGHT.append(str(error))


async def emits_and_saves(params: dict[str, Any], context: Context) -> None:
    """The chunk and the state, which is too large for a plan, are in one report."""
    context.emit("a chunk")
    context.checkpoint("x" * params["size"])


def keyed(params: dict[str, Any], context: Context) -> Any:
    return context.key


async def keyed_coroutine(params: dict[str, Any], context: Context) -> Any:
    return context.key


def keyed_batch(tasks: list[dict[str, Any]], contexts: list[Context]) -> list[Any]:
    return [[len(tasks), context.key] for context in contexts]
