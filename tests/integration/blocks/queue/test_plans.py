"""What statements read of a large table: what they write about, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from asyncpg.pool import PoolConnectionProxy

from organism_flows.blocks.queue import Batch, NewTask, Queue, TaskFilter
from organism_flows.blocks.queue.db.session import Session
from tests.support.queue.plans import explain, rolled_back
from tests.support.queue.sessions import completion, failed, release
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio

LINES = 8
BATCH = 500

FILL = """
ALTER DATABASE {database} SET synchronous_commit = off;
ALTER TABLE tasks SET (autovacuum_enabled = false);
INSERT INTO tasks (type, priority, status, run_after, finished_at)
    SELECT 't' || i % 4, i / 4 % 2, 'completed', now(), now() FROM generate_series(1, 200000) i;
INSERT INTO tasks (type, priority, run_after)
    SELECT 't' || i % 4, i / 4 % 2, now() + interval '1 day' FROM generate_series(1, 50000) i;
INSERT INTO tasks (type, priority, run_after)
    SELECT 't' || i % 4, i / 4 % 2, now() - i * interval '1 ms' FROM generate_series(1, 50000) i;
INSERT INTO tasks (type, key, run_after)
    SELECT 'keyed', 'k' || i % 3000, now() - i * interval '1 ms' FROM generate_series(1, 20000) i;
ANALYZE tasks;
"""


@pytest.fixture(scope="module")
def large(databases: Any) -> str:
    """URL of a database with 300,000 tasks."""

    async def fill() -> str:
        dsn = await databases.create()
        connection = await asyncpg.connect(dsn)
        database = await connection.fetchval("SELECT quote_ident(current_database())")
        await connection.execute(FILL.format(database=database))
        await connection.close()
        return str(dsn)

    return asyncio.run(fill())


@pytest.fixture
async def queue(large: str) -> AsyncIterator[Queue]:
    async with Queue(large) as queue:
        yield queue


@pytest.fixture
async def vacuumed(queue: Queue) -> None:
    """Rid the indexes of what the tests before have claimed and rolled back."""
    await pool_of(queue).execute("VACUUM (INDEX_CLEANUP ON, PARALLEL 0) tasks")


@pytest.fixture(params=["analyzed", "no statistics"])
async def session(request: pytest.FixtureRequest, queue: Queue) -> AsyncIterator[PoolConnectionProxy[Any]]:
    """A session of a queue whose transaction is rolled back."""
    async with rolled_back(queue) as connection:
        if request.param == "no statistics":
            await connection.execute(
                "SELECT pg_clear_attribute_stats('public', 'tasks', attname::text, false) FROM pg_attribute "
                "WHERE attrelid = 'tasks'::regclass AND attnum > 0"
            )
        await connection.execute(
            "INSERT INTO lanes (id, host, pid, lease_until) VALUES ('lane', '', 0, now() + interval '1 hour')"
        )
        yield connection


def claim_arguments(
    lines: list[tuple[str, int]],
    quota: int,
    after: tuple[datetime, str] | None = None,
    lane: str = "lane",
) -> dict[str, Any]:
    """As a lane sends them."""
    n = len(lines)
    moment, task_id = after or (None, None)
    return {
        "lane": lane,
        "limit": BATCH,
        "types": [t for t, _ in lines],
        "priorities": [p for _, p in lines],
        "domains": [""] * n,
        "keys": [""] * n,
        "quotas": [quota] * n,
        "after": [moment] * n,
        "after_ids": [task_id] * n,
    }


ALL_LINES = [(f"t{n}", priority) for priority in (1, 0) for n in range(4)]


async def claimed(session: PoolConnectionProxy[Any]) -> Batch:
    columns = await Session(session).fetchrow("claim", **claim_arguments(ALL_LINES, BATCH))
    return Batch(ids=columns["id"], claims=columns["claim"])


@pytest.mark.parametrize(("quota", "lines"), [(BATCH, LINES), (10, LINES), (1, LINES), (BATCH, 1)])
async def test_a_claim_reads_what_it_takes(session: PoolConnectionProxy[Any], quota: int, lines: int) -> None:
    scans, _ = await explain(session, "claim", **claim_arguments(ALL_LINES[:lines], quota))
    taken = min(BATCH, quota * lines)
    assert {(scan.how, scan.index) for scan in scans} == {
        ("Index Scan", "tasks_lines"),
        ("Tid Scan", None),
    }
    assert {scan.rows for scan in scans} == {taken}


@pytest.mark.parametrize("after_all", [False, True])
async def test_a_claim_that_finds_nothing_reads_nothing(
    session: PoolConnectionProxy[Any], after_all: bool
) -> None:
    lines, after = [("none", 0)], None
    if after_all:  # Only what is scheduled for later is left of them.
        lines, after = ALL_LINES, (await session.fetchval("SELECT now()"), str(UUID(int=0)))
    scans, buffers = await explain(session, "claim", **claim_arguments(lines, BATCH, after))
    assert sum(scan.rows for scan in scans) == 0
    assert buffers <= 10 + 6 * len(lines)


async def test_settlements_find_their_tasks_by_id(session: PoolConnectionProxy[Any]) -> None:
    batch = await claimed(session)
    n = len(batch)
    half = n // 2
    for name, values in {
        "complete": completion(Batch(batch.ids[:half], batch.claims[:half])),
        "settle": failed(Batch(batch.ids[half:], batch.claims[half:])),
    }.items():
        scans, _ = await explain(session, name, **values)
        assert {(scan.how, scan.index) for scan in scans} == {("Index Scan", "tasks_pkey")}, name
        assert all(scan.rows <= half for scan in scans), name


async def test_hand_backs_and_cancels_find_their_tasks_by_id(session: PoolConnectionProxy[Any]) -> None:
    batch = await claimed(session)
    for name, values in {
        "cancel": {"ids": [UUID(i) for i in batch.ids]},
        "release": release(batch),
    }.items():
        scans, _ = await explain(session, name, **values)
        # By the key, be it through a bitmap.
        assert {(scan.how, scan.index) for scan in scans} <= {
            ("Index Scan", "tasks_pkey"),
            ("Bitmap Heap Scan", None),
        }, name
        assert all(scan.rows <= len(batch) for scan in scans), name


async def test_a_scan_jumps_from_line_to_line(session: PoolConnectionProxy[Any]) -> None:
    scans, buffers = await explain(session, "lines", at_once=64)
    assert {scan.index for scan in scans} == {"tasks_lines"}
    read = LINES + 64  # of the many of the type with keys
    assert sum(scan.rows for scan in scans) <= 2 * read + 1
    assert buffers <= 12 * (read + 1)


async def test_a_page_of_many_lines_reads_no_more_than_it_shows(session: PoolConnectionProxy[Any]) -> None:
    scans, buffers = await explain(
        session, "next_lines", type="keyed", priority=0, domain="", key="k1500", limit=100
    )
    assert {scan.index for scan in scans} <= {"tasks_lines", "tasks_lines_oldest"}
    assert sum(scan.rows for scan in scans) <= 210
    assert buffers <= 1500


async def test_what_is_due_next_is_one_look_a_type_and_priority(session: PoolConnectionProxy[Any]) -> None:
    scans, buffers = await explain(session, "next_due")
    assert {scan.index for scan in scans} <= {"tasks_lines", "tasks_lines_oldest"}
    assert sum(scan.rows for scan in scans) <= 3 * (LINES + 2)
    assert buffers <= 20 * (LINES + 2)


@pytest.mark.parametrize(
    ("name", "values", "index"),
    [
        ("cancel_requests", {"lane": "lane"}, "tasks_cancelling"),
        ("reap", {"max_leases": 10, "strays": False}, "tasks_held"),
        ("reap", {"max_leases": 10, "strays": True}, "tasks_held"),
        ("release_unanswered", {"lane": "another", "known_claims": []}, "tasks_held"),
    ],
)
async def test_keeping_house_reads_nothing_while_nothing_is_wrong(
    vacuumed: None, session: PoolConnectionProxy[Any], name: str, values: dict[str, Any], index: str
) -> None:
    await claimed(session)
    scans, buffers = await explain(session, name, **values)
    by_scan = [scan for scan in scans if scan.rows or scan.how == "Seq Scan"]
    assert {scan.index for scan in by_scan} <= {index}
    assert sum(scan.rows for scan in scans) <= 2
    assert buffers <= 40


async def test_looks_by_id_read_what_they_show(session: PoolConnectionProxy[Any]) -> None:
    everything = TaskFilter().parameters()
    ids = [row["id"] for row in await session.fetch("SELECT id FROM tasks LIMIT 1000")]
    for name, values, rows in (
        ("states", {"ids": ids}, 1000),
        ("page", {**everything, "before": None, "limit": 50}, 50),
        ("page", {**everything, "before": ids[500], "limit": 50}, 50),
    ):
        scans, _ = await explain(session, name, **values)
        # By the key, be it through a bitmap.
        assert {scan.index for scan in scans} <= {"tasks_pkey", None}, name
        assert "Seq Scan" not in {scan.how for scan in scans}, name
        assert max(scan.rows for scan in scans) <= rows, name


async def test_a_task_is_read_by_its_key_although_that_was_planned_for_a_small_table(database: str) -> None:
    async with Queue(database, connections=1) as queue:
        await pool_of(queue).execute("ALTER TABLE tasks SET (autovacuum_enabled = false)")
        [task_id] = await queue.submit([NewTask(type="t")])
        await pool_of(queue).execute("ANALYZE tasks")  # one page: reading all of it is cheapest
        for _ in range(10):
            await queue.get(str(task_id))
        await pool_of(queue).execute("INSERT INTO tasks (type) SELECT 't' FROM generate_series(1, 1000)")
        async with pool_of(queue).acquire() as session, session.transaction():
            await Session(session).fetch("get", lowest=task_id, highest=task_id, default_max_attempts=5)
            read = await session.fetchval(
                "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'tasks'"
            )
    assert read == 0


async def test_who_is_ahead_is_counted_along_the_line(session: PoolConnectionProxy[Any]) -> None:
    now = await session.fetchval("SELECT now()")
    scans, _ = await explain(
        session, "ahead", type="t0", priority=0, domain="", key="", run_after=now, id=UUID(int=0)
    )
    assert {scan.index for scan in scans} == {"tasks_lines"}
    assert sum(scan.rows for scan in scans) == 5_000


@pytest.mark.parametrize(
    ("name", "values", "rows"),
    [
        (
            "line_pace",
            {"type": "t0", "priority": 0, "domain": "", "key": "", "window_s": 3600.0, "most": 500},
            2001 + 2000,
        ),
        ("limit_pace", {"name": "few", "key": "", "window_s": 3600.0, "held": 100, "most": 50}, 2000 + 100),
        # Of 9 types and priorities a jump each, 60 of their lines twice; and what has ended.
        ("line_waits", {"pairs": 500, "lines": 540, "held": 100, "after_s": 3600.0}, 2000 + 100 + 20 + 2000),
    ],
)
async def test_what_lines_did_is_read_in_part(
    session: PoolConnectionProxy[Any],
    request: pytest.FixtureRequest,
    name: str,
    values: dict[str, Any],
    rows: int,
) -> None:
    await session.execute(
        "INSERT INTO limits (name, kind, types, amount) VALUES ('few', 'running', '{t0}', 5)"
    )
    await claimed(session)
    read = {"ended": 2000} if name == "line_waits" else {"read": 2000}
    scans, _ = await explain(session, name, **values, **read)
    assert "Seq Scan" not in {scan.how for scan in scans}, scans
    # Without statistics, Postgres takes the tasks that have ended for few and sorts them: so does the board.
    if name == "line_waits" or request.node.callspec.params["session"] == "analyzed":
        assert sum(scan.rows for scan in scans) <= rows, scans


INTERRUPTED = """
INSERT INTO tasks (type, interrupted) SELECT 't0', i % 5 FROM generate_series(1, 1000) i;
UPDATE tasks SET interrupted = 9 WHERE id IN (SELECT id FROM tasks WHERE status = 'completed' LIMIT 1000);
"""


async def test_interrupted_tasks_are_counted_by_their_index(session: PoolConnectionProxy[Any]) -> None:
    await session.execute(INTERRUPTED)
    assert await Session(session).fetchval("interrupted", limit=1000) == 400
    for limit, counted in ((1000, 400), (100, 100)):
        scans, buffers = await explain(session, "interrupted", limit=limit)
        # Be it through a bitmap.
        assert {(scan.how, scan.index) for scan in scans} <= {
            ("Index Scan", "tasks_interrupted"),
            ("Index Only Scan", "tasks_interrupted"),
            ("Bitmap Heap Scan", None),
        }
        assert sum(scan.rows for scan in scans) == counted
        assert buffers <= 1000
    scans, buffers = await explain(session, "most_interrupted", limit=5)
    assert {(scan.how, scan.index) for scan in scans} <= {
        ("Index Scan", "tasks_interrupted"),
        ("Bitmap Heap Scan", None),
    }
    assert buffers <= 1000


async def test_what_expires_is_read_from_an_index_of_what_may(session: PoolConnectionProxy[Any]) -> None:
    await session.execute(
        "INSERT INTO tasks (type, expires_at) "
        "SELECT 't0', queue_now() + make_interval(secs => i) FROM generate_series(-99, 5000) i"
    )
    scans, buffers = await explain(session, "expirable", limit=1000)
    assert [(scan.index, scan.rows) for scan in scans] == [("tasks_expiring", 100)]
    assert buffers <= 400


async def test_what_is_to_be_known_of_long_work_is_read_of_what_lanes_hold(
    session: PoolConnectionProxy[Any],
) -> None:
    await session.execute(INTERRUPTED)
    held = len(await claimed(session))
    for name, values, others in (
        ("long_work", {"waits_long_s": 60.0, "limit": 1000}, 600),
        ("of_type", {"type": "t0", "id": UUID(int=0)}, 0),
    ):
        scans, _ = await explain(session, name, **values)
        assert {scan.index for scan in scans} - {None} <= {"tasks_held", "tasks_interrupted"}, name
        assert "Seq Scan" not in {scan.how for scan in scans}, name
        assert max(scan.rows for scan in scans) <= max(held, others), name


@pytest.mark.parametrize("limit", [2000, 500])
async def test_a_cursor_spares_a_claim_the_entries_of_tasks_already_claimed(queue: Queue, limit: int) -> None:
    """They stay in the index as long as any snapshot may see them: here, that of a session left open."""
    await pool_of(queue).execute("INSERT INTO tasks (type) SELECT 'dead' FROM generate_series(1, 20000)")
    # Of one transaction, as a bulk submit is: nothing but their ids tells them apart.
    await queue.leases.register(lane := f"lane{limit}")
    async with pool_of(queue).acquire() as watcher, watcher.transaction(isolation="repeatable_read"):
        await watcher.fetchval("SELECT count(*) FROM lanes")
        lines = queue.claims.lines(lane, clock=lambda: 0.0)
        while len(await lines.claim(limit, lambda kind: 2000 if kind == "dead" else 0)):
            pass
        [line] = [line for line in lines if line.type == "dead"]
        await queue.submit([NewTask(type="dead")])
        read = {}
        for after in (line.after, None):
            async with rolled_back(queue) as session:
                values = claim_arguments([("dead", 0)], 1, after, lane)
                [read[after], _], _ = await explain(session, "claim", **values)
    assert {scan.index for scan in read.values()} == {"tasks_lines"}
    assert {scan.rows for scan in read.values()} == {1}
    assert 20 * read[line.after].buffers < read[None].buffers


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_pruning_reads_nothing_while_nothing_is_old(
    session: PoolConnectionProxy[Any], status: str
) -> None:
    values = {"status": status, "older_than_s": 30.0 * 86400, "begin": None, "limit": 1000}
    scans, buffers = await explain(session, "prune", **values)
    assert sum(scan.rows for scan in scans) == 0
    assert buffers <= 10


FINISHED_LONG_AGO = """
UPDATE tasks SET finished_at = now() - interval '90 days' WHERE id IN (
    SELECT id FROM tasks WHERE status = 'completed' ORDER BY id LIMIT 1500);
INSERT INTO tasks (type, status, finished_at, error)
    SELECT 'dead', 'failed', now() - i * interval '1 s', 'boom' FROM generate_series(1, 1500) i;
"""


async def test_upkeep_reads_the_page_it_works_on(queue: Queue) -> None:
    page = 100
    async with rolled_back(queue) as session:
        await session.execute(FINISHED_LONG_AGO)
        now = await session.fetchval("SELECT now()")
        redrive = {
            "status": "failed",
            "error": "b%",
            "until": now,
            **dict.fromkeys(("type", "domain", "since", "after", "after_id")),
            "page": page,
            "limit": page,
            "from_start": False,
            "audit": UUID(int=1),
            "actor": "me",
            "details": "{}",
        }
        prune = {"status": "completed", "older_than_s": 30.0 * 86400, "begin": None, "limit": page}
        for name, values in {"prune": prune, "redrive": redrive}.items():
            scans, buffers = await explain(session, name, **values)
            assert {(scan.how, scan.index) for scan in scans if scan.rows} == {
                ("Index Scan", "tasks_finished"),
                ("Tid Scan", None),
            }, name
            # One more, to know that the page is in order.
            assert all(scan.rows <= page + 1 for scan in scans), name
            assert buffers <= 60 * page, name


async def test_dead_letters_are_counted_by_the_index_and_up_to_a_limit(queue: Queue) -> None:
    async with rolled_back(queue) as session:
        await session.execute(FINISHED_LONG_AGO)
        scans, _ = await explain(session, "dead_letters", limit=100)
    assert {scan.index for scan in scans} == {"tasks_finished"}
    assert sum(scan.rows for scan in scans) == 100


async def test_a_claim_along_keys_reads_what_it_takes(session: PoolConnectionProxy[Any]) -> None:
    n = 100
    values = claim_arguments([("keyed", 0)] * n, 2) | {"keys": [f"k{number}" for number in range(n)]}
    scans, _ = await explain(session, "claim", **values)
    assert {(scan.how, scan.index) for scan in scans} == {("Index Scan", "tasks_lines"), ("Tid Scan", None)}
    assert {scan.rows for scan in scans} == {2 * n}
