"""Memory of every process while one lane works off a million tasks."""

from __future__ import annotations

import asyncio
import time

import psutil

from benchmarks.costs import is_replica
from benchmarks.figures import Figure, Result, Unmeasured, median
from benchmarks.options import Options
from benchmarks.stack import Stack, stop

TASKS = 1_000_000
EVERY_S = 1.0
SETTLED_IN = 0.2
"""Caches and pools fill in the first fifth; growth is counted from there."""
FLAT_PERCENT = 5.0


async def measure(stack: Stack, options: Options) -> Result:
    """Growth of each process from the first fifth of the run to its end."""
    tasks = options.tasks(TASKS)
    await stack.clear()
    await stack.load(tasks)
    process = stack.start("dispatch", "--until-empty", "--max-seconds", "1200")
    curve: dict[str, list[float]] = {}
    times: list[float] = []
    try:
        await stack.until_lanes(1, process)
        lane = await stack.db.fetchval("SELECT pid FROM lanes")
        watched = groups(stack, process.pid, lane)
        started = time.monotonic()
        while process.poll() is None and psutil.pid_exists(lane):
            times.append(time.monotonic() - started)
            for name, members in watched.items():
                curve.setdefault(name, []).append(sum(map(megabytes, members)))
            await asyncio.sleep(EVERY_S)
    finally:
        await stop(process)
    if (done := await stack.completed()) != tasks:
        raise Unmeasured(f"{done} of {tasks} tasks were completed")
    # The last sample may have met the lane while it was ending.
    curve, times = {name: values[:-1] for name, values in curve.items()}, times[:-1]
    if len(times) < 5:
        raise Unmeasured("the run was over before there was a curve")
    return Result(
        [growth(name, values, tasks) for name, values in curve.items()],
        {"tasks": tasks, "seconds": times, "megabytes": curve},
    )


def growth(name: str, values: list[float], tasks: int) -> Figure:
    """Percent from the first fifth of a curve to its end, each the median of a few samples."""
    begin = int(len(values) * SETTLED_IN)
    few = max(len(values) // 20, 1)
    first, last = median(values[begin : begin + few]), median(values[-few:])
    slope = (last - first) / (tasks * (1 - SETTLED_IN) / 100_000)
    return Figure(
        f"memory of {name}: growth over {tasks:,} tasks",
        100 * (last - first) / first,
        "%",
        at_most=FLAT_PERCENT,
        note=f"{first:.0f} to {last:.0f} MB, {slope:+.2f} MB per 100,000 tasks",
    )


def groups(stack: Stack, flow: int, lane: int) -> dict[str, list[psutil.Process]]:
    """Processes by what they are."""
    processes = stack.state.processes

    def tree(role: str) -> list[psutil.Process]:
        root = psutil.Process(processes[role].pid)
        return [root, *root.children(recursive=True)]

    ray = tree("ray")
    replicas = [p for p in ray if is_replica(p)]
    return {
        "the lane": [psutil.Process(lane)],
        "the replicas": replicas,
        "the flow": [psutil.Process(flow)],
        "the rest of Ray": [p for p in ray if p.pid != lane and p not in replicas],
        "the Prefect server": tree("prefect"),
    }


def megabytes(process: psutil.Process) -> float:
    """Resident memory; 0 when the process has ended."""
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0
