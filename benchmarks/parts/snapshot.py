"""A drain of three minutes while somebody holds a snapshot open, against the same drain without.

While the snapshot is open Postgres can remove no row version and no index entry that has died since.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import Any

import asyncpg

from benchmarks.figures import Figure, Result, Unmeasured
from benchmarks.options import Options
from benchmarks.parts.drain import first_claim, ours
from benchmarks.stack import LOAD_TIMEOUT_S, Stack

SECONDS = 180.0
BIN = timedelta(seconds=5)
DEAD = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'tasks'"


async def measure(stack: Stack, options: Options) -> Result:
    """As many tasks as make three minutes by a drain just before, twice."""
    rate = (await ours(stack, options.tasks(100_000)))["rate"]
    tasks = int(rate * options.seconds(SECONDS))
    without = await drain(stack, tasks, hold=False)
    held = await drain(stack, tasks, hold=True)
    loss = 100 * (1 - held["rate"] / without["rate"])
    return Result(
        [
            Figure(
                "snapshot held open during a drain: throughput lost",
                loss,
                "%",
                at_most=20,
                note=f"{held['rate']:,.0f} over {without['rate']:,.0f} tasks/s, {tasks:,} tasks, "
                f"held for {held['seconds']:.0f} s",
            ),
            Figure("snapshot held open: dead rows at the end", held["dead"], "rows"),
            Figure("no snapshot: dead rows at the end", without["dead"], "rows"),
        ],
        {"without": without, "held": held, "bin_s": BIN.total_seconds()},
    )


@asynccontextmanager
async def snapshot(dsn: str) -> AsyncIterator[None]:
    """Another connection has read the table in a transaction that stays open, as a report does."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.fetchval("SELECT id FROM tasks LIMIT 1")
        yield
    finally:
        await connection.close()


async def drain(stack: Stack, tasks: int, *, hold: bool) -> dict[str, Any]:
    """Rate, seconds, dead rows at the end, and how many ended in each bin of time."""
    await stack.clear()
    await stack.load(tasks)
    async with snapshot(stack.state.dsn) if hold else nullcontext():
        running = asyncio.create_task(stack.run("dispatch", "--until-empty", "--max-seconds", "1200"))
        try:
            first = await first_claim(stack, running)
            await running
        finally:
            running.cancel()
        dead = await stack.db.fetchval(DEAD)
    rows = await stack.db.fetch(
        "SELECT extract(epoch FROM date_bin($1, finished_at, $2) - $2)::float8 AS at, count(*) AS ended "
        "FROM tasks WHERE status = 'completed' GROUP BY 1 ORDER BY 1",
        BIN,
        first,
        timeout=LOAD_TIMEOUT_S,
    )
    done = sum(row["ended"] for row in rows)
    if done != tasks:
        raise Unmeasured(f"{done} of {tasks} tasks were completed")
    last = await stack.db.fetchval("SELECT max(finished_at) FROM tasks", timeout=LOAD_TIMEOUT_S)
    seconds = (last - first).total_seconds()
    stack.say(f"{tasks:,} tasks in {seconds:.0f} s: {tasks / seconds:,.0f} tasks/s, {dead:,} dead rows")
    return {
        "tasks": tasks,
        "rate": tasks / seconds,
        "seconds": seconds,
        "dead": dead,
        "curve": [[row["at"], row["ended"] / BIN.total_seconds()] for row in rows],
    }
