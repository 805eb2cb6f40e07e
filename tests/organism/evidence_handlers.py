"""Handlers of the test stack. They import nothing of this project, as a user's would not."""

import asyncio
import os
from pathlib import Path


async def leave_evidence(task):
    """Take params.seconds, then write one line to params.file: which task ran, under which claim, where."""
    await asyncio.sleep(task["params"]["seconds"])
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
