"""Handlers of the chaos runs, which write down each of their runs: ``task claim replica event at``."""

import asyncio
import os
import time
from pathlib import Path

import httpx

STEP_S = 2.0
client = None
"""Of this process, made by the first call."""


def replica():
    """Process id of the replica: of this process or, in a process of the organ's own, of its parent."""
    name = Path("/proc/self/cmdline").read_bytes()
    return os.getpid() if name.startswith(b"ray::") else os.getppid()


def note(task, event):
    """One line to params.file, in one write so that lines of many processes do not mix."""
    line = f"{task['task_id']} {task['claim']} {replica()} {event} {time.time():.3f}\n"
    file = os.open(task["params"]["file"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Refused(Exception):
    """Another attempt cannot help."""

    permanent = True


async def work(task, context):
    """Take params.seconds, and emit three chunks on the way.

    Then fail for good if params.refuse, or in the first params.failures attempts.
    """
    params = task["params"]
    note(task, "begin")
    try:
        for number in (1, 2, 3):
            await asyncio.sleep(params["seconds"] / 3)
            context.emit([task["claim"], number])
    finally:
        note(task, "end")
    if params.get("refuse"):
        raise Refused(f"refused under claim {task['claim']}")
    if task["attempt"] <= params.get("failures", 0):
        raise RuntimeError(f"no luck under claim {task['claim']}")
    return {"claim": task["claim"]}


def endure(task, context):
    """Take params.seconds in small steps, saying so every other second; end early when told to."""
    ends = time.monotonic() + task["params"]["seconds"]
    said = time.monotonic()
    note(task, "begin")
    try:
        while (left := ends - time.monotonic()) > 0:
            if context.cancelled:
                note(task, "told")
                raise RuntimeError(f"told to stop under claim {task['claim']}")
            if time.monotonic() - said > STEP_S:
                said = time.monotonic()
                note(task, "step")
            time.sleep(min(0.2, left))
    finally:
        note(task, "end")
    return {"claim": task["claim"]}


class Waiting(Exception):
    """Wait for the event of this name."""

    def __init__(self, event):
        super().__init__(f"waits for {event}")
        self.wait_for_event = event


async def ask(task, context):
    """Wait for each of params.events, and return what came with them."""
    note(task, "begin")
    try:
        await asyncio.sleep(task["params"]["seconds"])
        names, got, event = task["params"]["events"], context.restored or [], context.event
        if event is not None and names[len(got) :][:1] == [event.name]:
            got = [*got, event.payload]
        if len(got) < len(names):
            if got:
                context.checkpoint(got)
            raise Waiting(names[len(got)])
    finally:
        note(task, "end")
    return {"claim": task["claim"], "got": got}


async def do_units(task, context):
    """Do params.units units of params.seconds, and save each before the next begins."""
    note(task, "begin")
    try:
        for unit in range(context.restored or 0, task["params"]["units"]):
            note(task, f"unit={unit}")
            await asyncio.sleep(task["params"]["seconds"])
            await context.checkpoint(unit + 1)
    except Exception as error:
        note_leaving(task, error)
        raise
    finally:
        note(task, "end")
    return {"claim": task["claim"]}


def do_units_in_process(task, context):
    """As `do_units`, in a plain function."""
    note(task, "begin")
    try:
        for unit in range(context.restored or 0, task["params"]["units"]):
            note(task, f"unit={unit}")
            time.sleep(task["params"]["seconds"])
            context.checkpoint(unit + 1).wait()
    except Exception as error:
        note_leaving(task, error)
        raise
    finally:
        note(task, "end")
    return {"claim": task["claim"]}


def note_leaving(task, error):
    if type(error).__name__ == "MustLeave":
        note(task, "left")


async def brief(task):
    """Take params.seconds, and return when it began."""
    began = time.time()
    await asyncio.sleep(task["params"]["seconds"])
    return {"claim": task["claim"], "began": began}


async def call(task):
    """Call the service of params.url, with params.key."""
    global client
    client = client or httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None))
    answer = await client.post(f"{task['params']['url']}/call/{task['params']['key']}/{task['task_id']}")
    answer.raise_for_status()


def poison(task):
    """What a crash in native code looks like to everybody else on the replica."""
    note(task, "begin")
    os._exit(13)
