"""pgmq, installed from its SQL file: read a batch of messages, handle them, delete them by their ids.

It stores no results. A message that was read is hidden for a while; a reader that comes back later than that
deletes a message which another reader has meanwhile: nothing is fenced.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time

import asyncpg
import orjson
import uvloop
from pgmq.install import get_embedded_install_sql

from benchmarks.peers.drained import PAYLOAD, arguments, ready, report

HIDDEN_S = 30
READ = "SELECT msg_id, message::text FROM pgmq.read('noop', $2, $1)"
DELETE = "SELECT count(*) FROM pgmq.delete('noop', $1::bigint[])"
FILL = "SELECT count(*) FROM pgmq.send_batch('noop', array_fill($1::text::jsonb, ARRAY[$2::int]))"


async def fill(dsn: str, tasks: int) -> None:
    """Install and send."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(get_embedded_install_sql())
    await connection.execute("SELECT pgmq.create('noop')")
    await connection.fetchval(FILL, orjson.dumps(PAYLOAD).decode(), tasks, timeout=300)
    await connection.execute("ANALYZE")
    await connection.execute("CHECKPOINT")
    await connection.close()


async def work(dsn: str, loops: int, size: int) -> None:
    """Read, handle and delete with ``loops`` connections until nothing is left."""

    async def loop() -> None:
        connection = await asyncpg.connect(dsn)
        while messages := await connection.fetch(READ, size, HIDDEN_S):
            for _, message in messages:
                orjson.loads(message)
            await connection.fetchval(DELETE, [msg_id for msg_id, _ in messages])
        await connection.close()

    await asyncio.gather(*(loop() for _ in range(loops)))


async def left(dsn: str) -> int:
    """Messages that nobody has deleted."""
    connection = await asyncpg.connect(dsn)
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM pgmq.q_noop")
        return count
    finally:
        await connection.close()


def worker(begin: multiprocessing.synchronize.Barrier, *settings: object) -> None:
    """Start, wait for the others, and work."""
    begin.wait()
    uvloop.run(work(*settings))


def drain(dsn: str, tasks: int, loops: int, size: int, processes: int) -> float:
    """Send, drain with ``processes`` workers, and return the seconds it took."""
    uvloop.run(fill(dsn, tasks))
    begin = multiprocessing.Barrier(processes + 1)
    workers = [
        multiprocessing.Process(target=worker, args=(begin, dsn, loops, size)) for _ in range(processes)
    ]
    for process in workers:
        process.start()
    ready()
    begin.wait()
    started = time.perf_counter()
    for process in workers:
        process.join()
    seconds = time.perf_counter() - started
    if count := uvloop.run(left(dsn)):
        raise SystemExit(f"error: {count} of {tasks} messages are left → look at pgmq.q_noop")
    return seconds


if __name__ == "__main__":
    a = arguments(loops=2, size=500, processes=1)
    settings = {"loops": a.loops, "size": a.size, "processes": a.processes}
    report("pgmq", a.tasks, drain(a.dsn, a.tasks, **settings), **settings)
