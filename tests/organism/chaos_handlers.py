"""Handlers of the chaos runs, which write down each of their runs: ``task claim pid event at``."""

import asyncio
import os
import time


def note(task, event):
    """One line to params.file, in one write so that lines of many processes do not mix."""
    line = f"{task['task_id']} {task['claim']} {os.getpid()} {event} {time.time():.3f}\n"
    file = os.open(task["params"]["file"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Refused(Exception):
    """Another attempt cannot help."""

    permanent = True


async def work(task):
    """Take params.seconds; then fail for good if params.refuse, or in the first params.failures attempts."""
    params = task["params"]
    note(task, "begin")
    try:
        await asyncio.sleep(params["seconds"])
    finally:
        note(task, "end")
    if params.get("refuse"):
        raise Refused(f"refused under claim {task['claim']}")
    if task["attempt"] <= params.get("failures", 0):
        raise RuntimeError(f"no luck under claim {task['claim']}")
    return {"claim": task["claim"]}


def poison(task):
    """What a crash in native code looks like to everybody else on the replica."""
    note(task, "begin")
    os._exit(13)
