"""What a claim costs when the table has grown: 10 M completed, 1 M scheduled and 1 M ready rows."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from benchmarks.figures import Figure, Result, Unmeasured, median, spread
from benchmarks.options import Options
from benchmarks.peers.floor import completed
from benchmarks.stack import LOAD_TIMEOUT_S, Stack
from organism_flows.blocks.queue import Queue, migrate

CLAIM_SIZE = 100
ROUNDS = 60
SCANS = 25
SMALL = {"completed": 0, "scheduled": 0, "ready": 10_000}
LARGE = {"completed": 10_000_000, "scheduled": 1_000_000, "ready": 1_000_000}

FILL = """
    INSERT INTO tasks (type, params, status, run_after, created_at, finished_at, attempts, claim, result)
    SELECT 'bench.noop', '{"n": 1}', $1::text::taskstatus,
           now() + $2::interval - make_interval(secs => n / 1000.0),
           now() - make_interval(secs => n / 1000.0), CASE WHEN $3 THEN now() END, $3::int, $3::int,
           CASE WHEN $3 THEN '{"n": 1}'::jsonb END
    FROM generate_series(1, $4) n
"""
TOUCHED = """
    SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'tasks')::float8
           + seq_tup_read AS touched, seq_scan
    FROM pg_stat_user_tables WHERE relname = 'tasks'
"""


async def measure(stack: Stack, options: Options) -> Result:
    """Claim and settle, on a small and on a large table, in databases of their own."""
    small = await claims(stack, "bench_small", SMALL)
    large = await claims(stack, "bench_large", {name: options.tasks(rows) for name, rows in LARGE.items()})
    await stack.db.execute("CHECKPOINT", timeout=LOAD_TIMEOUT_S)
    total = f"{sum(options.tasks(rows) for rows in LARGE.values()):,}"
    return Result(
        [
            Figure(
                f"growth: claim of 100 in {total} rows over 10,000",
                median(large["claim_ms"]) / median(small["claim_ms"]),
                at_most=1.5,
                note=f"{median(large['claim_ms']):.2f} ({spread(large['claim_ms'])}) over "
                f"{median(small['claim_ms']):.2f} ({spread(small['claim_ms'])}) ms",
            ),
            Figure(
                f"growth: scan for lines of tasks in {total} rows over 10,000",
                median(large["scan_ms"]) / median(small["scan_ms"]),
                at_most=1.5,
                note=f"{median(large['scan_ms']):.2f} ({spread(large['scan_ms'])}) over "
                f"{median(small['scan_ms']):.2f} ({spread(small['scan_ms'])}) ms; once a second at most",
            ),
            Figure(
                f"growth: index entries read a task claimed and settled, {total} rows over 10,000",
                large["touched"] / small["touched"],
                at_most=1.5,
                note=f"{large['touched']:.1f} over {small['touched']:.1f}; "
                f"{large['seq_scans']} and {small['seq_scans']} sequential scans",
            ),
        ],
        {"small": small, "large": large},
    )


async def claims(stack: Stack, database: str, rows: dict[str, int]) -> dict[str, Any]:
    """Milliseconds of each claim, and what claims and settlements read, by Postgres's own counters."""
    dsn = await stack.fresh_database(database)
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        started = time.monotonic()
        await fill(connection, rows)
        # The rows of the large table are still on their way to the disk, which claims would wait for.
        await asyncio.to_thread(os.sync)
        stack.say(f"{sum(rows.values()):,} rows in {time.monotonic() - started:.0f} s")
        async with Queue(dsn, connections=1) as queue:
            lane = f"growth-{uuid4().hex[:8]}"
            await queue.leases.register(lane)
            lines = queue.claims.lines(lane)
            scans = [await milliseconds(lines.scan()) for _ in range(SCANS)]
            before = await connection.fetchrow(TOUCHED)
            took = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                batch = await lines.claim(CLAIM_SIZE, lambda _: CLAIM_SIZE)
                took.append((time.perf_counter() - began) * 1000)
                if len(batch) != CLAIM_SIZE:
                    raise Unmeasured(f"a claim of {CLAIM_SIZE} got {len(batch)}")
                await queue.claims.settle(lane, batch, completed(batch))
        after = await connection.fetchrow(TOUCHED)
        assert before is not None
        assert after is not None
        return {
            "claim_ms": took[5:],  # the first ones plan and fill caches
            "scan_ms": scans[5:],
            "touched": (after["touched"] - before["touched"]) / (ROUNDS * CLAIM_SIZE),
            "seq_scans": after["seq_scan"] - before["seq_scan"],
        }
    finally:
        await connection.close()
        await stack.db.execute(f'DROP DATABASE "{database}" WITH (FORCE)')


async def milliseconds(work: Awaitable[Any]) -> float:
    """How long ``work`` takes."""
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1000


async def fill(connection: asyncpg.Connection[Any], rows: dict[str, int]) -> None:
    """Insert with the secondary indexes away, put them back, vacuum as autovacuum would have."""
    indexes = await connection.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'tasks' AND indexname <> 'tasks_pkey'"
    )
    for index in indexes:
        await connection.execute(f'DROP INDEX "{index["indexname"]}"')
    for name, status, delay in (
        ("completed", "completed", timedelta(0)),
        ("scheduled", "queued", timedelta(days=10)),
        ("ready", "queued", timedelta(0)),
    ):
        done = name == "completed"
        await connection.execute(FILL, status, delay, done, rows[name], timeout=LOAD_TIMEOUT_S)
    await connection.execute("SET maintenance_work_mem = '512MB'")
    for index in indexes:
        await connection.execute(index["indexdef"], timeout=LOAD_TIMEOUT_S)
    await connection.execute("VACUUM (ANALYZE) tasks", timeout=LOAD_TIMEOUT_S)
    await connection.execute("CHECKPOINT", timeout=LOAD_TIMEOUT_S)
