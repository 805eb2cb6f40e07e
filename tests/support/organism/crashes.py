"""Handlers for the tests of agents: what only a process of its own survives. They run nowhere else."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pydantic import BaseModel


class OnlyHere(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


class OnlyHerePermanent(OnlyHere):
    permanent = True


def arrive(params: Any) -> None:
    """Write the pid to the file ``says``, then wait until somebody writes to the pipe ``waits``."""
    if says := params.get("says"):
        draft = Path(f"{says}.draft")
        draft.write_text(str(os.getpid()))
        draft.rename(says)
    if waits := params.get("waits"):
        Path(waits).read_text()


def pid(task: dict[str, Any]) -> int:
    arrive(task["params"])
    return os.getpid()


async def pid_async(task: dict[str, Any]) -> int:
    await asyncio.sleep(0)
    return os.getpid()


MARK: ContextVar[str] = ContextVar("MARK", default="fresh")


def mark(task: dict[str, Any]) -> str:
    found = MARK.get()
    MARK.set("used")
    return found


async def same_loop(task: dict[str, Any]) -> list[int]:
    return [os.getpid(), id(asyncio.get_running_loop())]


async def background(task: dict[str, Any]) -> str:
    """Leave something on the loop that would end it."""

    async def end() -> None:
        raise SystemExit(7)

    if task["params"].get("leave"):
        ending = asyncio.create_task(end())
        while not ending.done():
            await asyncio.sleep(0)
    return "fine"


def pids(tasks: list[dict[str, Any]]) -> list[Any]:
    if any(task["params"].get("how") for task in tasks):
        misbehave(next(task for task in tasks if task["params"].get("how")))
    return [[os.getpid(), len(tasks)] for _ in tasks]


async def pids_async(tasks: list[dict[str, Any]]) -> list[Any]:
    return pids(tasks)


class Point(BaseModel):
    x: int
    y: int = 0


def typed(params: Point, context: Any) -> list[Any]:
    return [params.x + params.y, context.task_id, context.attempt, 0 < context.remaining_s <= 20]


class Counts:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, task: dict[str, Any]) -> int:
        self.calls += 1
        return self.calls


def progresses(params: dict[str, str], context: Any) -> bool:
    context.progress(0.1, "begun")
    for number in range(2, 10):
        context.progress(number / 10, "last word" if number == 9 else "on the way")
    arrive(params)
    return bool(context.cancelled)


class SaysLater:
    """The first call leaves something behind that speaks of it during the second."""

    def __init__(self) -> None:
        self.second = threading.Event()
        self.left: threading.Thread | None = None

    def __call__(self, params: dict[str, str], context: Any) -> None:
        if self.left is None:

            def speak() -> None:
                self.second.wait()
                context.progress(0.1, "late")

            self.left = threading.Thread(target=speak, daemon=True)
            self.left.start()
            return
        self.second.set()
        self.left.join()
        arrive(params)


def meet(params: Any) -> int:
    """Come back only when ``many`` of them are here at once."""
    folder = Path(params["folder"])
    (folder / params["name"]).touch()
    while len(list(folder.iterdir())) < params["many"]:
        time.sleep(0.005)
    return os.getpid()


def misbehave(task: dict[str, Any]) -> Any:
    arrive(task["params"])
    match task["params"]["how"]:
        case "nothing":
            return os.getpid()
        case "exit 0":
            os._exit(0)
        case "exit 3":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "odd signal":
            os.kill(os.getpid(), signal.SIGRTMIN + 3)
        case "close everything":
            os.closerange(3, 256)
            time.sleep(60)
        case "talk nonsense":
            for fd in range(3, 256):
                try:
                    os.write(fd, b"\x00\x00\x00\x04junk")
                except OSError:
                    continue
            time.sleep(60)
        case "no memory":
            return bytearray(1 << 60)
        case "system exit":
            raise SystemExit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
            return os.getpid()
        case "own exception":
            raise OnlyHere("mine")
        case "own permanent exception":
            raise OnlyHerePermanent("mine")
        case "garbage":
            return {"lock": threading.Lock()}
        case "huge":
            return "x" * 2_000_000
        case "loop":
            while True:
                pass
        case "compute in C":
            return sum(range(10**13))
        case "start another":
            sleeping = subprocess.Popen(["sleep", "600"])
            Path(task["params"]["child"]).write_text(str(sleeping.pid))
            sleeping.wait()
        case "start another elsewhere":
            # Out of its group and its session, and with a parent that ends at once.
            script = f"setsid sleep 600 & echo $! > {task['params']['child']}"
            subprocess.run(["setsid", "-w", "sh", "-c", script], check=True)
            time.sleep(600)
        case "fork and return":
            return {"child": os.fork()}
        case "fork and raise":
            if not os.fork():
                raise ValueError("in the child")
        case "outlived":
            # By something that holds every file of the agent open, and is not in its group.
            if os.fork() == 0:
                os.setsid()
                time.sleep(30)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    return None


async def misbehave_async(task: dict[str, Any]) -> Any:
    return misbehave(task)
