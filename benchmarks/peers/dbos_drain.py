"""DBOS: a queue of async workflows in one process, polled often; results are stored.

First claim and last completion are the times of its own workflow rows, in milliseconds.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
from dbos import DBOS, DBOSConfig

from benchmarks.peers.drained import PAYLOAD, arguments, ready, report

PATIENCE_S = 300
POOL = 20


@DBOS.workflow(name="noop")
async def noop(params: dict[str, object]) -> dict[str, object]:
    """Return the params."""
    return params


def launch(dsn: str, *queues: str) -> None:
    """Start DBOS, working on ``queues`` only."""
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": dsn,
        "application_version": "1",
        "sys_db_pool_size": POOL,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.listen_queues(queues)
    DBOS.launch()


def drain(dsn: str, tasks: int, concurrency: int, poll: float) -> float:
    """Enqueue, drain, and return the seconds it took."""
    launch(dsn)
    DBOS.register_queue("noop", worker_concurrency=concurrency or None, polling_interval_sec=poll)
    with ThreadPoolExecutor(POOL // 2) as threads:
        list(threads.map(lambda _: DBOS.enqueue_workflow("noop", noop, PAYLOAD), range(tasks)))
    DBOS.destroy()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE")
        connection.execute("CHECKPOINT")
        ready()
        launch(dsn, "noop")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            row = connection.execute(
                """SELECT count(*) FILTER (WHERE status = 'SUCCESS'),
                          (max(completed_at) - min(started_at_epoch_ms)) / 1000.0
                   FROM dbos.workflow_status"""
            ).fetchone()
            assert row is not None
            if row[0] == tasks:
                break
            if time.monotonic() > deadline:
                raise SystemExit(f"error: {row[0]} of {tasks} workflows ended in {PATIENCE_S} s → try fewer")
            time.sleep(0.2)
    DBOS.destroy()
    return float(row[1])


if __name__ == "__main__":
    a = arguments(concurrency=0, poll=0.01)
    report(
        "dbos", a.tasks, drain(a.dsn, a.tasks, a.concurrency, a.poll), concurrency=a.concurrency, poll=a.poll
    )
