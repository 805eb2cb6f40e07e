"""The old dispatcher's shape: claim 8, a handle call for each, wait for all, write each back, claim again.

Runs in this project's environment, against the same Serve app, in the same table; the statements are the
older system's: no lease, no token.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import asyncpg

from benchmarks.peers.drained import arguments, ready, report

CLAIM_SIZE = 8

CLAIM = """
    UPDATE tasks SET status = 'running', locked_by = 'old', locked_at = now(), attempts = attempts + 1
    WHERE id IN (SELECT id FROM tasks WHERE status = 'queued' AND run_after <= now()
                 ORDER BY run_after LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING id::text, type, params::text AS params
"""
SETTLE = """
    UPDATE tasks SET status = 'completed', result = $2::jsonb, locked_by = NULL, locked_at = NULL,
                     finished_at = now(), updated_at = now()
    WHERE id = $1::uuid
"""


async def drain(dsn: str, tasks: int) -> float:
    """Drain what is in the table and return the seconds it took."""
    from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster  # isort: skip  # points Ray at the stack before it is imported

    from ray import serve

    await RayCluster().connect()
    handle = serve.get_deployment_handle("OrganismManager", app_name="organism")

    async def call(row: Any) -> dict[str, Any]:
        task = {"task_id": row["id"], "type": row["type"], "params": json.loads(row["params"])}
        outcome: dict[str, Any] = await handle.handle_incoming_task.remote(task)
        return outcome

    connection = await asyncpg.connect(dsn)
    await call({"id": "warm-up", "type": "bench.noop", "params": "{}"})
    done = 0
    ready()
    started = time.perf_counter()
    while rows := await connection.fetch(CLAIM, CLAIM_SIZE):
        for outcome in await asyncio.gather(*map(call, rows)):
            await connection.execute(SETTLE, outcome["task_id"], json.dumps(outcome["result"]))
        done += len(rows)
    seconds = time.perf_counter() - started
    if done != tasks:
        raise SystemExit(f"error: {done} of {tasks} tasks were settled → is another dispatcher running?")
    return seconds


if __name__ == "__main__":
    a = arguments()
    report(None, a.tasks, asyncio.run(drain(a.dsn, a.tasks)), claim=CLAIM_SIZE)
