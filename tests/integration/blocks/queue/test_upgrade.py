"""From version 1 to 2 with tasks in every state, under producers and lanes that still are of version 1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from alembic import command

from organism_flows.blocks.errors import QueueUnavailable, SchemaMismatch
from organism_flows.blocks.queue import Queue, TaskFilter, migrate
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


OLD_CLAIM = """
WITH lane AS MATERIALIZED (
    SELECT id FROM lanes WHERE id = $1 AND lease_until > queue_now() FOR KEY SHARE
), ready AS MATERIALIZED (
    SELECT id FROM tasks
    WHERE status IN ('queued', 'retry') AND run_after <= queue_now() AND EXISTS (SELECT FROM lane)
    ORDER BY priority DESC, run_after, id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
UPDATE tasks t
SET status = 'running', claim = nextval('task_claims'), attempts = t.attempts + 1,
    locked_by = $1, locked_at = queue_now(), updated_at = queue_now()
FROM ready
WHERE t.id = ready.id
RETURNING t.id::text, t.claim
"""
OLD_SETTLE = """
UPDATE tasks t
SET status = 'completed', result = '1', finished_at = queue_now(), locked_by = NULL, locked_at = NULL
FROM unnest($1::uuid[], $2::bigint[]) AS r(id, claim)
WHERE t.id = r.id AND t.claim = r.claim AND t.status = 'running'
"""
VERSION_1_ROWS = """
INSERT INTO lanes (id, run, host, pid, lease_until) VALUES ('v1', 'run', 'h', 1, now() + interval '1 hour');
INSERT INTO tasks (type, status, attempts, claim, locked_by, locked_at, run_after, max_attempts) VALUES
    ('created', 'created', 0, 0, NULL, NULL, now(), 5),
    ('queued', 'queued', 0, 0, NULL, NULL, now() + interval '1 day', 3),
    ('held', 'running', 1, 1, 'v1', now(), now(), 5),
    ('lost', 'running', 1, 2, NULL, NULL, now() + interval '1 day', 5),
    ('completed', 'completed', 1, 3, NULL, NULL, now(), 5),
    ('failed', 'failed', 5, 4, NULL, NULL, now(), 5),
    ('cancelled', 'cancelled', 0, 0, NULL, NULL, now(), 5),
    ('retry', 'retry', 1, 5, NULL, NULL, now() + interval '1 day', 5);
SELECT setval('task_claims', 5);
"""
SCHEMA = """
SELECT 'index' AS kind, indexrelid::text AS name, pg_get_indexdef(indexrelid) || indisvalid AS definition
    FROM pg_index WHERE indrelid IN ('tasks'::regclass, 'lanes'::regclass, 'pauses'::regclass)
UNION ALL SELECT 'constraint', oid::text, pg_get_constraintdef(oid) || convalidated FROM pg_constraint
    WHERE conrelid IN ('tasks'::regclass, 'lanes'::regclass, 'pauses'::regclass, 'task_types'::regclass)
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger
    WHERE tgrelid IN ('tasks'::regclass, 'pauses'::regclass) AND NOT tgisinternal
UNION ALL SELECT 'column', attrelid || attname, format_type(atttypid, NULL) || attnotnull FROM pg_attribute
    WHERE attrelid IN ('tasks'::regclass, 'lanes'::regclass) AND attnum > 0
ORDER BY 1, 2
"""


@pytest.fixture
async def dsn(databases: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a database of version 1 with a task in every state."""
    dsn = await databases.create(migrated=False)
    with monkeypatch.context() as patch:
        upgrade = command.upgrade
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        patch.setitem(migrate.__globals__, "_set_privileges", lambda _: [])  # of tables to come
        await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute(VERSION_1_ROWS)
    await connection.close()
    return str(dsn)


@pytest.fixture
async def session(dsn: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def indexes(session: asyncpg.Connection[Any] | asyncpg.Pool[Any]) -> dict[str, bool]:
    """Those of the tasks table, and whether each is valid."""
    rows = await session.fetch(
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'tasks'::regclass"
    )
    return dict(row for row in rows)


NEW_INDEXES = {
    "tasks_lines",
    "tasks_lines_oldest",
    "tasks_expiring",
    "tasks_held",
    "tasks_backing_off",
    "tasks_cancelling",
    "tasks_dedup",
    "tasks_finished",
}
REPLACED = {"tasks_ready", "tasks_running", "tasks_dead_letters", "tasks_claimable"}


async def check_indexes(session: asyncpg.Connection[Any] | asyncpg.Pool[Any]) -> None:
    there = await indexes(session)
    assert there.keys() >= NEW_INDEXES
    assert not there.keys() & REPLACED, "older ones only cost"
    assert all(there.values()), there


async def test_every_task_stays_as_it_is_and_so_does_what_a_lane_holds(
    dsn: str, session: asyncpg.Connection[Any]
) -> None:
    kept = (
        "SELECT id, type, status, attempts, claim, locked_by, run_after, max_attempts, created_at "
        "FROM tasks WHERE type <> 'lost' ORDER BY type"
    )
    before = await session.fetch(kept)
    await migrate(dsn)
    assert await session.fetch(kept) == before
    # Nobody holds it, so nobody could ever have taken it back.
    assert await session.fetchval("SELECT status::text FROM tasks WHERE type = 'lost'") == "retry"
    await check_indexes(session)
    async with Queue(dsn) as queue:
        assert [lane.id for lane in await queue.reader.lanes()] == ["v1"]
        assert (await queue.leases.reap()).retried == 0, "the lane of version 1 lives"
        [held] = await queue.reader.page(TaskFilter(status=["running"]))
        await session.execute(OLD_SETTLE, [held.id], [1])
        assert (await queue.get(str(held.id))).status == "completed"


async def test_producers_and_lanes_of_version_1_go_on_meanwhile(dsn: str) -> None:
    migrated = asyncio.Event()
    inserted: list[Any] = []
    settled: list[Any] = []

    async def produce() -> None:
        connection = await asyncpg.connect(dsn)
        while not migrated.is_set():
            rows = await connection.fetch(
                "INSERT INTO tasks (type) SELECT 'new' FROM generate_series(1, 20) RETURNING id::text"
            )
            inserted.extend(row["id"] for row in rows)
        await connection.close()

    async def run_lane() -> None:
        connection = await asyncpg.connect(dsn)
        while not migrated.is_set():
            rows = await connection.fetch(OLD_CLAIM, "v1", 10)
            await connection.execute(OLD_SETTLE, [r["id"] for r in rows], [r["claim"] for r in rows])
            settled.extend(row["id"] for row in rows)
        await connection.close()

    others = [asyncio.create_task(produce()), asyncio.create_task(run_lane())]
    async with asyncio.timeout(60):
        while len(settled) < 20:  # they are at work
            await asyncio.sleep(0.01)
    before = len(inserted), len(settled)
    await asyncio.wait_for(migrate(dsn), 60)
    during = len(inserted) - before[0], len(settled) - before[1]
    migrated.set()
    await asyncio.gather(*others)
    assert min(during) > 0, "nobody stood still for the whole of it"
    assert len(set(settled)) == len(settled), "no task was given out twice"

    async with Queue(dsn) as queue:
        await check_indexes(pool_of(queue))
        await queue.leases.register("v2")
        mine: list[str] = []
        while len(batch := await queue.claims.claim("v2", 1000)):
            mine += batch.ids
        assert not set(mine) & set(settled)
        assert {*mine, *settled} >= set(inserted), "a task was lost"


@pytest.mark.parametrize("how", ["killed", "cancelled"])
async def test_an_index_that_a_broken_migration_left_behind_is_made_again(
    dsn: str, session: asyncpg.Connection[Any], how: str
) -> None:
    other = await asyncpg.connect(dsn)
    try:
        # While this snapshot is open, an index made concurrently waits for it, half made.
        async with session.transaction(isolation="repeatable_read"):
            await session.fetchval("SELECT count(*) FROM pg_class")
            migrating = asyncio.create_task(migrate(dsn))
            async with asyncio.timeout(30):
                while not (
                    pid := await other.fetchval(
                        "SELECT pid FROM pg_stat_activity "
                        "WHERE wait_event_type = 'Lock' AND datname = current_database() "
                        "AND query LIKE 'CREATE%INDEX CONCURRENTLY%'"
                    )
                ):
                    await asyncio.sleep(0.01)
            if how == "killed":
                await other.fetchval("SELECT pg_terminate_backend($1)", pid)
                with pytest.raises(QueueUnavailable, match="broke off"):
                    await migrating
            else:
                migrating.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await migrating
        broken = [name for name, valid in (await indexes(session)).items() if not valid]
        assert broken, "the migration was ended too late"
        assert set(broken) <= NEW_INDEXES | REPLACED
        await migrate(dsn)
        await check_indexes(session)
    finally:
        await other.close()


async def test_a_domain_that_has_no_room_in_the_index_is_named_and_nothing_is_lost(
    dsn: str, session: asyncpg.Connection[Any]
) -> None:
    await session.execute(
        "INSERT INTO tasks (type, domain) "
        "SELECT 't', string_agg(md5(i::text), '') FROM generate_series(1, 99) i"
    )
    before = await session.fetch("SELECT id, domain FROM tasks ORDER BY id")
    with pytest.raises(
        SchemaMismatch, match="1 waiting tasks have a domain of more than 800 bytes"
    ) as refused:
        await migrate(dsn)
    assert await session.fetch("SELECT id, domain FROM tasks ORDER BY id") == before
    assert refused.value.next_step
    repair = refused.value.next_step.partition("; and")[0]
    assert await session.execute(repair) == "UPDATE 1"
    await migrate(dsn)
    await check_indexes(session)


async def test_migrating_twice_changes_nothing(dsn: str, session: asyncpg.Connection[Any]) -> None:
    await migrate(dsn)
    before = await session.fetch(SCHEMA), await session.fetch("SELECT * FROM tasks ORDER BY id")
    await migrate(dsn)
    assert (await session.fetch(SCHEMA), await session.fetch("SELECT * FROM tasks ORDER BY id")) == before
    # Not even when its version was not written down.
    await session.execute("UPDATE organism_migrations SET version_num = '0001'")
    await migrate(dsn)
    assert (await session.fetch(SCHEMA), await session.fetch("SELECT * FROM tasks ORDER BY id")) == before


async def test_many_migrators_of_one_database_at_once(dsn: str, session: asyncpg.Connection[Any]) -> None:
    await asyncio.wait_for(asyncio.gather(*(migrate(dsn) for _ in range(4))), 60)
    await check_indexes(session)
    assert await session.fetchval("SELECT count(*) FROM tasks") == 8
