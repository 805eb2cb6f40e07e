"""Handlers of the test stack. They import nothing of this project, as a user's would not."""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import threading
import time
from pathlib import Path


async def leave_evidence(task):
    """Write one line to params.file: which task ran, under which claim, where.

    Before that, take params.seconds, and wait until the file params.until is there, if one is named.
    """
    await asyncio.sleep(task["params"]["seconds"])
    if "until" in task["params"]:
        await wait(task)
    line = f"{task['task_id']} {task['claim']} {os.getpid()}\n"
    with Path(task["params"]["file"]).open("a") as file:
        file.write(line)
    return {"claim": task["claim"]}


async def wait(task):
    """Wait until the file params.until is there; leave params.cancelled, if given, when cut short."""
    try:
        while not Path(task["params"]["until"]).exists():
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        if file := task["params"].get("cancelled"):
            Path(file).write_text(str(task["claim"]))
        raise
    return {}


def end_replica(task):
    """What a crash in native code looks like."""
    os._exit(13)


def fail(task):
    """An ordinary failure."""
    raise RuntimeError(f"no luck with {task['params']}")


LOCK = threading.Lock()
LOCK.acquire()


def misbehave(task):
    """In a thread: whatever params.how says."""
    match task["params"]["how"]:
        case "segfault":
            ctypes.string_at(0)
        case "killed for memory":  # as the kernel does it
            os.kill(os.getpid(), signal.SIGKILL)
        case "out of memory":
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, hard))
            try:
                bytearray(2**30)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        case "deadlock":
            LOCK.acquire()


async def misbehave_async(task):
    """On the event loop: whatever params.how says."""
    match task["params"]["how"]:
        case "wait for ever":
            await asyncio.Event().wait()
        case "ignore cancellation":
            ends = asyncio.get_running_loop().time() + 5
            while asyncio.get_running_loop().time() < ends:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(5)
        case "block the loop for a while":
            time.sleep(3)  # noqa: ASYNC251
            return await leave_evidence(task)
        case "block the loop":
            time.sleep(3600)  # noqa: ASYNC251
    return {}


async def sleep_or_die(task):
    """Take params.seconds, and with params.die end the replica then."""
    await asyncio.sleep(task["params"]["seconds"])
    if task["params"].get("die"):
        os._exit(13)
    return {"pid": os.getpid()}


def plan(task):
    """One step."""
    return {"steps": [{"type": "echo", "params": {"planned": True}}]}


def compute_or_die(params):
    """In a process of its own: square params.n, or with params.die end the process."""
    if params.get("die"):
        os._exit(13)
    return {"square": params["n"] ** 2, "pid": os.getpid()}


def greet_from_own_packages(task):
    """Import packages of this project's own that are called `flows` and `blocks`."""
    from flows.greetings import greet

    return {"said": greet(task["params"]["name"])}


async def work_through_units(params, context):
    """Do one unit after the other, and save each; leave a line for each unit that begins."""
    for unit in range(context.restored or 0, params["units"]):
        with Path(params["file"]).open("a") as lines:
            lines.write(f"{context.task_id} {unit}\n")
        await asyncio.sleep(params["seconds"])
        await context.checkpoint(unit + 1)
