"""Latency of single tasks that arrive steadily, beside the shortest way there is.

The shortest way: insert a row, make one handle call, write the result into the row: two Postgres round trips
and a call, one after the other in one process. Each rate is measured
twice: alone, and beside a process that burns a core.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from uuid import uuid4

from benchmarks.arrivals import Arrival, client
from benchmarks.figures import Figure, Result, percentile
from benchmarks.options import Options
from benchmarks.peers.drained import PAYLOAD
from benchmarks.stack import Stack

RATES = {10: 40.0, 50: 20.0, 200: 15.0, 500: 10.0}
"""Seconds by tasks a second: enough tasks for a 99th percentile."""
BURNT = ", a core burnt"
"""Said of a rate at which another process takes a whole core, from both ways."""
BURN = "while True: pass"
SHORTEST = 200
WARM_UP = 20
INSERT = "INSERT INTO bench_bare VALUES ($1, $2::text::jsonb)"
UPDATE = "UPDATE bench_bare SET result = $2::text::jsonb WHERE id = $1"
BARE_TABLE = """
    CREATE TABLE IF NOT EXISTS bench_bare (id uuid PRIMARY KEY, params jsonb NOT NULL, result jsonb);
    TRUNCATE bench_bare;
"""


async def measure(stack: Stack, options: Options) -> Result:
    """At each rate the shortest way, then the queue."""
    samples: dict[str, Any] = {}
    figures = []
    await stack.clear()
    async with stack.dispatching(), client(stack.state.dsn) as one:
        await one.trickle(50, 2, lambda _: NOOP)  # lane, replica and connections have run their code once
        for beside, burning in (("", nullcontext), (BURNT, burning_a_core)):
            for rate, seconds in RATES.items():
                with burning():
                    bare = await shortest(stack, rate, options.tasks(SHORTEST))
                    seen = await one.trickle(rate, options.seconds(seconds), lambda _: NOOP)
                queued = [task.latency_ms for task in seen]
                samples[f"{rate}{beside}"] = {"bare_ms": bare, "queued_ms": queued}
                figures += compare(f"{rate}/s{beside}", queued, bare)
    return Result(figures, samples)


@contextmanager
def burning_a_core() -> Iterator[None]:
    """Let another process compute and do nothing else."""
    process = subprocess.Popen([sys.executable, "-c", BURN])
    try:
        yield
    finally:
        process.kill()
        process.wait()


NOOP = Arrival("bench.noop", PAYLOAD, "noop")


def compare(case: str, queued: list[float], bare: list[float]) -> list[Figure]:
    """Both percentiles over the median of the shortest way, the stricter of two readings of the target."""
    base = percentile(bare, 50)
    bare_note = f"shortest way p50 {base:.1f}, p99 {percentile(bare, 99):.1f} ms"
    figures = []
    for percent, limit in ((50, 1.5), (99, 5.0)):
        value = percentile(queued, percent)
        note = f"{value:.1f} ms of {len(queued)} tasks; {bare_note}"
        name = f"trickle {case}: p{percent} over the shortest way's p50"
        figures.append(Figure(name, value / base, at_most=limit, note=note))
    return figures


async def shortest(stack: Stack, rate: float, count: int) -> list[float]:
    """Milliseconds of ``count`` times insert, handle call and update, begun at most ``rate`` times a second.

    One after the other, so that none waits for another: the ratio is to what the way itself takes.
    """
    from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster  # isort: skip  # points Ray at the stack before it is imported

    from ray import serve

    await RayCluster().connect()
    handle = serve.get_deployment_handle("OrganismManager", app_name="organism")
    await stack.db.execute(BARE_TABLE)
    params = json.dumps(PAYLOAD)

    async def once() -> float:
        task_id = uuid4()
        started = time.perf_counter()
        await stack.db.execute(INSERT, task_id, params)
        outcome = await handle.handle_incoming_task.remote(
            {"task_id": str(task_id), "type": "bench.noop", "params": PAYLOAD}
        )
        await stack.db.execute(UPDATE, task_id, json.dumps(outcome["result"]))
        return time.perf_counter() - started

    for _ in range(WARM_UP):
        await once()
    took = []
    for _ in range(count):
        took.append(await once())
        await asyncio.sleep(max(1 / rate - took[-1], 0))
    await stack.db.execute("DROP TABLE bench_bare")
    return [seconds * 1000 for seconds in took]
