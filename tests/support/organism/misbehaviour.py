"""Handlers for the tests: everything a handler can do wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

from pydantic import BaseModel, Field

RELEASE = threading.Event()
"""Set: blocked threads go on."""
STARTED: Counter[str] = Counter()
"""How often a task of a name was started."""
ENDED: Counter[str] = Counter()
"""How often a task of a name left its handler, cancelled or not."""
ARRIVALS: asyncio.Queue[str]
"""Names of tasks as they start; made anew by each test."""
ALLOWED: dict[str, asyncio.Event]
"""Lets tasks of a name go on; made anew by each test."""


def reset() -> None:
    global ARRIVALS, ALLOWED
    RELEASE.clear()
    STARTED.clear()
    RUNNERS.clear()
    SEEN.clear()
    ENDED.clear()
    ARRIVALS = asyncio.Queue()
    ALLOWED = {}


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Marked(Exception):
    permanent = True


class Unmarked(NotImplementedError):
    permanent = False


ODDITIES: dict[str, Any] = {
    "value_error": lambda: ValueError("bad value"),
    "system_exit": lambda: SystemExit(3),
    "keyboard_interrupt": KeyboardInterrupt,
    "generator_exit": GeneratorExit,
    "stop_iteration": lambda: StopIteration(1),
    "stop_async_iteration": lambda: StopAsyncIteration(1),
    "cancelled": asyncio.CancelledError,
    "silent": Silent,
    "nul": lambda: RuntimeError("a\x00b"),
    "surrogate": lambda: RuntimeError("a\ud800b"),
    "long": lambda: RuntimeError("x" * 100_000),
    "marked": lambda: Marked("certain"),
    "unmarked": lambda: Unmarked("not certain"),
    "not_implemented": lambda: NotImplementedError("never"),
    "group": lambda: ExceptionGroup("several", [ValueError("inner")]),
}

GARBAGE: dict[str, Any] = {
    "nan": lambda: {"rows": [{"score": float("nan")}]},
    "infinity": lambda: [1.0, float("inf")],
    "nul": lambda: {"text": "a\x00b"},
    "surrogate": lambda: {"text": "a\ud800b"},
    "set": lambda: {"tags": {1}},
    "bytes": lambda: b"x",
    "object": object,
    "int_key": lambda: {"m": {1: 2}},
    "huge": lambda: "x" * 2_000_000,
    "huge_integer": lambda: [1 << 100_000],
    "generator": lambda: (i for i in range(3)),
    "itself": lambda: _itself(),
}


def _itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


async def raise_async(task: dict[str, Any]) -> Any:
    raise ODDITIES[task["params"]["what"]]()


def raise_plain(task: dict[str, Any]) -> Any:
    raise ODDITIES[task["params"]["what"]]()


async def garbage_async(task: dict[str, Any]) -> Any:
    return GARBAGE[task["params"]["what"]]()


def garbage_plain(task: dict[str, Any]) -> Any:
    return GARBAGE[task["params"]["what"]]()


def block(task: dict[str, Any]) -> str:
    STARTED["block"] += 1
    RELEASE.wait(60)
    return "released"


def patient(task: dict[str, Any], context: Any) -> str:
    """Until it is told to stop, or released."""
    name = f"claim {task['claim']}"
    STARTED[name] += 1
    try:
        while not (context.cancelled or RELEASE.wait(0.005)):
            pass
        return "released"
    finally:
        ENDED[name] += 1


def lingering(task: dict[str, Any]) -> str:
    """Takes its time to stop."""
    STARTED["lingering"] += 1
    RELEASE.wait(60)
    ENDED["lingering"] += 1
    return "released"


async def stubborn(task: dict[str, Any]) -> str:
    STARTED["stubborn"] += 1
    while not RELEASE.is_set():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue
    return "released"


async def step(task: dict[str, Any]) -> str:
    """Say that it has started, wait until its name is allowed, say that it has ended."""
    name: str = task["params"]["name"]
    STARTED[name] += 1
    ARRIVALS.put_nowait(name)
    try:
        await ALLOWED.setdefault(name, asyncio.Event()).wait()
    finally:
        ENDED[name] += 1
    return name


def batch(tasks: list[dict[str, Any]]) -> Any:
    names = [task["params"].get("name") for task in tasks]
    STARTED["batch"] += 1
    if "raise" in names:
        raise ValueError("one of them is bad")
    if "short" in names:
        return names[1:]
    if "no_list" in names:
        return None
    return [
        ValueError("mine alone") if name == "item" else {"name": name, "of": len(names)} for name in names
    ]


async def batch_async(tasks: list[dict[str, Any]]) -> Any:
    return batch(tasks)


async def batch_that_steps(tasks: list[dict[str, Any]]) -> list[str]:
    await step({"params": {"name": "batch"}})
    return ["done"] * len(tasks)


async def block_the_loop(task: dict[str, Any]) -> None:
    time.sleep(task["params"]["seconds"])  # noqa: ASYNC251 - what a handler should not do


def looks_plain(task: dict[str, Any]) -> Any:
    """A plain function that returns something to await, as decorators make them."""
    return _later(task)


async def _later(task: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"awaited": task["params"]}


class Counting:
    """A class as a handler: one instance a replica."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, task: dict[str, Any]) -> int:
        self.calls += 1
        return self.calls


class CountingAsync(Counting):
    async def __call__(self, task: dict[str, Any]) -> int:  # type: ignore[override]
        self.calls += 1
        return self.calls


class Broken:
    def __init__(self) -> None:
        raise OSError("model file is missing")

    def __call__(self, task: dict[str, Any]) -> None: ...


instance = Counting()
not_callable = 7


def yields(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield task


async def yields_async(task: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield task


class Yielding:
    async def __call__(self, task: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        yield task


def takes_two(task: dict[str, Any], other: int) -> None: ...


def seen(task: dict[str, Any]) -> dict[str, Any]:
    return task


class Greeting(BaseModel):
    name: str
    times: int = Field(default=1, ge=1, le=3)


def typed(params: Greeting) -> str:
    return f"hello {params.name}" * params.times


async def typed_with_task(task: dict[str, Any], params: Greeting) -> list[Any]:
    return [task["task_id"], params.name]


async def typed_first(params: Greeting, task: dict[str, Any]) -> list[Any]:
    return [task["task_id"], params.name]


def typed_by_dict(*, params: dict[str, int]) -> int:
    return sum(params.values())


def untyped(params) -> Any:  # type: ignore[no-untyped-def]
    return params


class Typed:
    def __call__(self, params: Greeting, context: Any) -> list[Any]:
        return [params.name, context.attempt]


SEEN: list[Any] = []
"""Contexts that `with_context` got."""


async def with_context(task: dict[str, Any], context: Any) -> dict[str, Any]:
    SEEN.append(context)
    context.logger.info("at work")
    context.progress(0.5, "half of it")
    if name := task["params"].get("name"):
        await step({"params": {"name": name}})
    return {
        "same": [context.task_id == task["task_id"], context.claim == task["claim"]],
        "left": context.remaining_s,
        "cancelled": context.cancelled,
    }


def look_for_cancellation(task: dict[str, Any], context: Any) -> str:
    STARTED["looking"] += 1
    SEEN.append(context)
    while not context.cancelled:
        time.sleep(0.005)
    ENDED["looking"] += 1
    return "in vain"


def batch_with_params(tasks: list[dict[str, Any]], params: Greeting) -> None: ...


CONTEXT: ContextVar[str] = ContextVar("CONTEXT", default="fresh")
RUNNERS: list[int] = []
"""Identity of the asyncio task each call of `turn` ran in."""


async def turn(task: dict[str, Any]) -> str:
    """Do what ``params.how`` says, and return what was found in the context variable."""
    found = CONTEXT.get()
    if task["params"].get("mark"):
        CONTEXT.set(task["task_id"])
    runner = asyncio.current_task()
    assert runner is not None
    RUNNERS.append(id(runner))
    match task["params"]["how"]:
        case "return":
            pass
        case "wait":
            await asyncio.sleep(0)
        case "wait long":
            await asyncio.sleep(0.02)
        case "raise":
            raise ValueError("bad value")
        case "raise later":
            await asyncio.sleep(0)
            raise ValueError("bad value")
        case "hang":
            await asyncio.Event().wait()
        case "cancel itself":
            runner.cancel()
        case "time out by itself":
            async with asyncio.timeout(0):
                await asyncio.sleep(1)
    return found


# Planners, and what their steps run


def plan(task: dict[str, Any]) -> Any:
    """Whatever plan the params hold."""
    return task["params"]["plan"]


async def plan_and_wait(task: dict[str, Any]) -> Any:
    await step({"params": {"name": "plan"}})
    return plan(task)


def double(params: dict[str, Any]) -> int:
    return int(params["n"]) * 2


def total(params: dict[str, Any]) -> int:
    return sum(params["results"])


def logs_and_fails(task: dict[str, Any], context: Any) -> None:
    context.logger.info("at work")
    context.logger.debug("not even the replica's log has this")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        context.logger.exception("it went wrong")
        raise


async def logs_and_hangs(task: dict[str, Any], context: Any) -> None:
    context.logger.info("begun")
    await asyncio.Event().wait()
