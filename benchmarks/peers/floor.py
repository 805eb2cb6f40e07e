"""The floor: batched claim and settle on the same table by the queue's own statements, and no organism.

What a lane would reach if running a task cost nothing. Runs in this project's environment.
"""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

from benchmarks.peers.drained import arguments, ready, report
from organism_flows.blocks.queue import Batch, Outcomes, Queue


def completed(batch: Batch) -> Outcomes:
    """Outcomes as a no-op handler gives them."""
    n = len(batch)
    return Outcomes(
        list(range(n)),
        ["completed"] * n,
        [*batch.params],
        [None] * n,
        ["fast"] * n,
        ["noop"] * n,
        [0.01] * n,
        [None] * n,
        [None] * n,
    )


async def drain(dsn: str, tasks: int, loops: int, size: int) -> float:
    """Drain what is in the table with ``loops`` lanes claiming ``size``, and return the seconds it took."""
    async with Queue(dsn, connections=loops) as queue:
        lanes = [f"floor-{uuid4().hex[:8]}" for _ in range(loops)]
        for lane in lanes:
            await queue.leases.register(lane)

        async def work(lane: str) -> int:
            lines = queue.claims.lines(lane)
            done = 0
            while len(batch := await lines.claim(size, lambda _: size)):
                done += len((await queue.claims.settle(lane, batch, completed(batch))).statuses)
            return done

        ready()
        started = time.perf_counter()
        done = sum(await asyncio.gather(*map(work, lanes)))
        seconds = time.perf_counter() - started
        for lane in lanes:
            await queue.leases.deregister(lane)
    if done != tasks:
        raise SystemExit(f"error: {done} of {tasks} tasks were settled → is another dispatcher running?")
    return seconds


if __name__ == "__main__":
    a = arguments(loops=2, size=500)
    report(None, a.tasks, asyncio.run(drain(a.dsn, a.tasks, a.loops, a.size)), loops=a.loops, size=a.size)
