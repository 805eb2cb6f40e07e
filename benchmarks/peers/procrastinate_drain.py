"""Procrastinate: psycopg pool, one worker with many jobs at once; its claim takes one job a statement.

It stores no results. First claim and last completion are the times of its own event rows.
"""

from __future__ import annotations

import procrastinate
import uvloop

from benchmarks.peers.drained import PAYLOAD, arguments, ready, report

ENQUEUE = 1000


async def drain(dsn: str, tasks: int, concurrency: int) -> float:
    """Defer, drain, and return the seconds it took."""
    connector = procrastinate.PsycopgConnector(
        conninfo=dsn, min_size=concurrency + 2, max_size=concurrency + 2
    )
    app = procrastinate.App(connector=connector)

    @app.task(name="noop")
    async def noop(**params: object) -> dict[str, object]:
        return params

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for start in range(0, tasks, ENQUEUE):
            await noop.batch_defer_async(*[dict(PAYLOAD)] * min(ENQUEUE, tasks - start))
        async with connector.pool.connection() as connection:
            await connection.set_autocommit(True)
            await connection.execute("ANALYZE")
            await connection.execute("CHECKPOINT")
            await connection.set_autocommit(False)
        ready()
        await app.run_worker_async(concurrency=concurrency, wait=False, install_signal_handlers=False)
        row = await connector.execute_query_one_async(
            """SELECT count(*) FILTER (WHERE type = 'succeeded') AS done,
                      extract(epoch FROM max(at) FILTER (WHERE type = 'succeeded')
                                       - min(at) FILTER (WHERE type = 'started'))::float8 AS seconds
               FROM procrastinate_events"""
        )
    if row["done"] != tasks:
        raise SystemExit(f"error: {row['done']} of {tasks} jobs succeeded → look at procrastinate_events")
    return float(row["seconds"])


if __name__ == "__main__":
    a = arguments(concurrency=10)
    report(
        "procrastinate", a.tasks, uvloop.run(drain(a.dsn, a.tasks, a.concurrency)), concurrency=a.concurrency
    )
