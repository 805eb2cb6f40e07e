"""The reads of the board: each reads a bounded part of a large table, by indexes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from asyncpg.pool import PoolConnectionProxy

from organism_flows.blocks.queue import Queue, TaskFilter
from organism_flows.blocks.queue.models.operations import Status
from organism_flows.blocks.queue.stores import reader
from tests.support.queue.plans import explain, rolled_back
from tests.support.sql import pool_of

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


async def test_a_page_of_a_status_that_few_tasks_have_reads_only_these(
    session: PoolConnectionProxy[Any],
) -> None:
    values = TaskFilter(status=["running", "cancelled"], type="t1").parameters()
    for name, arguments in (
        ("status_size", {"statuses": values["statuses"], "limit": 1000}),
        ("page_of_few", {**values, "before": None, "limit": 50, "few": 1000}),
    ):
        scans, _ = await explain(session, name, **arguments)
        assert sum(scan.rows for scan in scans) == 0, name
        assert "Seq Scan" not in {scan.how for scan in scans}, name


async def test_a_page_is_the_same_by_either_way(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, status, locked_by, locked_at, finished_at, waits_for) "
        "SELECT 't' || i % 2, status::taskstatus, CASE WHEN status = 'running' THEN 'lane' END, now(), "
        "CASE WHEN status IN ('completed', 'failed', 'cancelled') THEN now() END, "
        "CASE WHEN status = 'queued' AND i % 3 = 0 THEN 'event' END "
        "FROM unnest('{created,queued,running,retry,completed,failed,cancelled}'::text[]) status, "
        "generate_series(1, 6) i"
    )
    chosen: list[list[Status]] = [["running"], ["waiting"], ["queued"], ["failed", "retry"], ["cancelled"]]
    for status in chosen:
        for type in (None, "t1"):
            filter = TaskFilter(status=status, type=type)
            pages = []
            for few in (reader.FEW, 0):
                monkeypatch.setattr(reader, "FEW", few)
                first = await queue.reader.page(filter, limit=2)
                rest = await queue.reader.page(filter, before=first[-1].id, limit=50)
                pages.append([*first, *rest])
            monkeypatch.undo()
            assert pages[0] == pages[1], filter
            assert {task.status for task in pages[0]} == set(status)
