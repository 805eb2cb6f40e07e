"""PgQueuer with an entrypoint for each key, its nearest means: `concurrency_limit` is by entrypoint.

It holds over all workers. Entrypoints are known when a worker starts, and do not take turns.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import asyncpg
import uvloop
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from benchmarks.peers.drained import arguments, ready, report

ENQUEUE = 10_000
POOL = 4
BIG = "big"
CALL_S = 0.02
"""What a job takes that arrives steadily."""
PATIENCE_S = 10.0
"""After the last job was sent. One that has not ended by then has taken so long."""


async def fill(connection: asyncpg.Connection[Any], names: list[str], payloads: list[bytes]) -> None:
    """Enqueue jobs, some thousands at once."""
    queries = Queries(AsyncpgDriver(connection))
    for start in range(0, len(names), ENQUEUE):
        part = slice(start, start + ENQUEUE)
        await queries.enqueue(names[part], payloads[part], [0] * len(names[part]))


async def drain(dsn: str, tasks: int, keys: int, rate: int, backlog: int, limited: int, batch: int) -> None:
    """Run the backlog of one key, and the jobs of the others: all at once, or ``rate`` a second."""
    names = [f"k{number % keys:06}" for number in range(tasks)]
    payloads = [str(number).encode() for number in range(tasks)]
    connection = await asyncpg.connect(dsn)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await fill(connection, [BIG] * backlog, [b""] * backlog)
    if not rate:
        await fill(connection, names, payloads)
    await connection.execute("ANALYZE")
    await connection.execute("CHECKPOINT")

    sent: dict[int, float] = {}
    ended: dict[int, float] = {}
    handled: list[float] = []
    """When the handler was called, the backlog included."""
    all_ended = asyncio.Event()

    async def run(job: Job) -> None:
        handled.append(time.perf_counter())
        if rate:
            await asyncio.sleep(CALL_S)
        if job.payload:
            ended[int(job.payload)] = time.perf_counter()
            if len(ended) == tasks:
                all_ended.set()

    manager = QueueManager(
        Queries(AsyncpgPoolDriver(await asyncpg.create_pool(dsn, min_size=POOL, max_size=POOL)))
    )
    for name in (BIG, *dict.fromkeys(names)):
        manager.entrypoint(name, concurrency_limit=2 if limited else 0)(run)
    ready()
    running = asyncio.create_task(manager.run(batch_size=batch))
    started = time.perf_counter()
    for number in range(tasks if rate else 0):
        await asyncio.sleep(max(started + number / rate - time.perf_counter(), 0))
        sent[number] = time.perf_counter()
        await queries.enqueue(names[number], payloads[number])
    with suppress(TimeoutError):
        await asyncio.wait_for(all_ended.wait(), PATIENCE_S)
    now = time.perf_counter()
    latencies_ms = [1000 * (ended.get(number, now) - at) for number, at in sent.items()]
    report("pgqueuer", len(handled), now - handled[0], latencies_ms, batch=batch)
    running.cancel()


if __name__ == "__main__":
    a = arguments(keys=999, rate=0, backlog=0, limited=1, batch=100)
    uvloop.run(drain(a.dsn, a.tasks, a.keys, a.rate, a.backlog, a.limited, a.batch))
