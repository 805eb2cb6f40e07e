"""The reads of the board: each reads a bounded part of a large table, by indexes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from asyncpg.pool import PoolConnectionProxy

from organism_flows.blocks.queue import Queue
from tests.support.queue.plans import explain, rolled_back

pytestmark = pytest.mark.anyio

FILL = """
ALTER TABLE tasks SET (autovacuum_enabled = false);
INSERT INTO tasks (type, status, run_after, finished_at, elapsed_ms)
    SELECT 't' || i % 4, 'completed', now(), now() - i * interval '1 ms', 5 FROM generate_series(1, 100000) i;
INSERT INTO tasks (type, status, finished_at, error)
    SELECT 't' || i % 4, 'failed', now() - i * interval '1 ms', 'error ' || i
    FROM generate_series(1, 30000) i;
INSERT INTO tasks (type, priority, run_after)
    SELECT 't' || i % 4, i / 4 % 2, now() - i * interval '1 ms' FROM generate_series(1, 50000) i;
ANALYZE tasks;
"""


@pytest.fixture(scope="module")
def large(databases: Any) -> str:
    """URL of a database with 180,000 tasks."""

    async def fill() -> str:
        dsn = await databases.create()
        connection = await asyncpg.connect(dsn)
        await connection.execute(FILL)
        await connection.close()
        return str(dsn)

    return asyncio.run(fill())


@pytest.fixture
async def session(large: str) -> AsyncIterator[PoolConnectionProxy[Any]]:
    async with Queue(large) as queue, rolled_back(queue) as connection:
        yield connection


FAILURES = {"type": None, "domain": None, "since": None, "limit": 2000, "groups": 100, "steps": 24}


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        # 8 lines; beside their tasks, one row each for the jumps.
        ("board_waiting", {"limit": 4000, "pairs": 500}, 4000 + 20),
        ("board_running", {"limit": 1000}, 0),
        ("board_dead", {"limit": 2000}, 2000),
        ("board_latency", {"limit": 2000}, 2000),
        # The sample of each group is read once more.
        ("board_failures", FAILURES, 2000 + 100),
        ("board_failures", FAILURES | {"type": "t1"}, 2000 + 100),
    ],
)
async def test_a_board_reads_the_newest_and_no_more(
    session: PoolConnectionProxy[Any], name: str, arguments: dict[str, Any], rows: int
) -> None:
    scans, _ = await explain(session, name, **arguments)
    assert "Seq Scan" not in {scan.how for scan in scans}
    assert sum(scan.rows for scan in scans) <= rows
