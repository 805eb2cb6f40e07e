"""PgQueuer: the asyncpg drivers, which its documentation measures as the fastest, under uvloop.

It stores no results: a finished job is deleted and a row of its log says so. First claim and last completion
are the times in that log. Installed as `durable`, its default; the faster installations lose the log in a
crash.
"""

from __future__ import annotations

import json
import multiprocessing

import asyncpg
import uvloop
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from benchmarks.peers.drained import PAYLOAD, arguments, ready, report

ENQUEUE = 10_000


async def fill(dsn: str, tasks: int) -> None:
    """Install and enqueue."""
    connection = await asyncpg.connect(dsn)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    payload = json.dumps(PAYLOAD).encode()
    for start in range(0, tasks, ENQUEUE):
        count = min(ENQUEUE, tasks - start)
        await queries.enqueue(["noop"] * count, [payload] * count, [0] * count)
    await connection.execute("ANALYZE")
    await connection.execute("CHECKPOINT")
    await connection.close()


async def work(dsn: str, batch: int, pool: int) -> None:
    """Drain with one queue manager, on one connection or on a pool of ``pool``."""
    driver: AsyncpgDriver | AsyncpgPoolDriver
    if pool:
        driver = AsyncpgPoolDriver(await asyncpg.create_pool(dsn, min_size=pool, max_size=pool))
    else:
        driver = AsyncpgDriver(await asyncpg.connect(dsn))
    manager = QueueManager(Queries(driver))

    @manager.entrypoint("noop")
    async def noop(job: Job) -> None:
        json.loads(job.payload or b"{}")

    await manager.run(batch_size=batch, mode=QueueExecutionMode.drain)


async def seconds_taken(dsn: str, tasks: int) -> float:
    """Seconds from the first job picked to the last one logged as successful."""
    connection = await asyncpg.connect(dsn)
    done, seconds = await connection.fetchrow(
        """SELECT count(*) FILTER (WHERE status = 'successful'),
                  extract(epoch FROM max(created) FILTER (WHERE status = 'successful')
                                   - min(created) FILTER (WHERE status = 'picked'))::float8
           FROM pgqueuer_log"""
    )
    await connection.close()
    if done != tasks:
        raise SystemExit(f"error: {done} of {tasks} jobs were completed → look at pgqueuer_log")
    return float(seconds)


def drain(dsn: str, tasks: int, batch: int, pool: int, processes: int) -> float:
    """Enqueue, drain with ``processes`` workers, and return the seconds it took."""
    uvloop.run(fill(dsn, tasks))
    ready()
    forked = multiprocessing.get_context("fork")
    workers = [forked.Process(target=lambda: uvloop.run(work(dsn, batch, pool))) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return uvloop.run(seconds_taken(dsn, tasks))


if __name__ == "__main__":
    a = arguments(batch=100, pool=0, processes=1)
    settings = {"batch": a.batch, "pool": a.pool, "processes": a.processes}
    report("pgqueuer", a.tasks, drain(a.dsn, a.tasks, **settings), **settings)
