"""awa: its queue storage engine, with an async Python handler; the engine itself runs in Rust.

It stores no results. A batch of completions is one row with arrays of ids, fenced by the lease of each run;
partitions are truncated, so that almost no row version dies.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any

import asyncpg
import awa
import uvloop

from benchmarks.peers.drained import PAYLOAD, arguments, ready, report

PATIENCE_S = 120
COMPLETED = "SELECT count(*) FROM awa.jobs WHERE state = 'completed'"


@dataclass
class Noop:
    """Arguments of the only kind of job."""

    customer: str
    amount: float
    items: list[int]


async def drain(dsn: str, tasks: int, workers: int, batch: int) -> float:
    """Enqueue, drain, and return the seconds from the first handler call to the last job completed."""
    # Its URLs must name a host, even where a parameter names the folder of a socket.
    client = awa.AsyncClient(dsn.replace("@/", "@localhost/", 1))
    await client.migrate()
    await client.install_queue_storage()
    await client.enqueue_many_copy([Noop(**PAYLOAD)] * tasks, queue="noop")
    began: list[float] = []
    left = tasks
    handled = asyncio.Event()

    @client.task(Noop, queue="noop")
    async def noop(job: Any) -> None:
        nonlocal left
        if not began:
            began.append(time.perf_counter())
        asdict(job.args)
        left -= 1
        if not left:
            handled.set()

    connection = await asyncpg.connect(dsn)
    await connection.execute("ANALYZE")
    await connection.execute("CHECKPOINT")
    ready()
    queue = {"name": "noop", "max_workers": workers} | ({"claim_batch_size": batch} if batch else {})
    await client.start([queue], poll_interval_ms=10)
    await asyncio.wait_for(handled.wait(), PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        while await connection.fetchval(COMPLETED) < tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # its completions are written in batches, later
    seconds = time.perf_counter() - began[0]
    await connection.close()
    await client.shutdown()
    return seconds


if __name__ == "__main__":
    a = arguments(workers=500, batch=0)
    settings = {"workers": a.workers, "batch": a.batch}
    report("awa-pg", a.tasks, uvloop.run(drain(a.dsn, a.tasks, **settings)), **settings)
