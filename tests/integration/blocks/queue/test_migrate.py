"""Migrations: a new database, an old one, somebody else's, and several migrators at once."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from organism_flows.blocks.errors import QueueUnavailable, SchemaMismatch
from organism_flows.blocks.queue import Queue, migrate
from organism_flows.blocks.queue.db.migrate import MIGRATION_LOCK
from tests.support.queue.older_schema import OLDER_SCHEMA
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio

OLDER_ROWS = "SELECT id, type, params, result, error, attempts FROM tasks ORDER BY type"


async def columns_of(connection: asyncpg.Connection[Any]) -> list[Any]:
    return await connection.fetch(
        "SELECT column_name, data_type, column_default FROM information_schema.columns "
        "WHERE table_name = 'tasks' ORDER BY 1"
    )


async def test_many_migrators_at_once(databases: Any) -> None:
    dsn = await databases.create(migrated=False)
    await asyncio.gather(*(migrate(dsn) for _ in range(6)))
    async with Queue(dsn) as queue:
        assert (await queue.reader.counts())["queued"] == 0


async def test_an_older_table_is_adopted_with_nothing_lost(databases: Any) -> None:
    dsn = await databases.create(migrated=False)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(OLDER_SCHEMA)
        before = await connection.fetch(OLDER_ROWS)
        await migrate(dsn)
        after = await connection.fetch(OLDER_ROWS)
        assert after == before
        assert await connection.fetchval("SELECT owner_id IS NULL FROM tasks WHERE type = 'a'")
        rows = await connection.fetch("SELECT type, status::text FROM tasks")
        statuses = {row["type"]: row["status"] for row in rows}
        assert statuses == {"a": "queued", "b": "retry", "c": "completed", "d": "failed", "e": "created"}
        async with Queue(dsn) as queue:
            await queue.leases.register("lane")
            # What the old system left `running` for ever runs again.
            assert sorted((await queue.claims.claim("lane", 10)).types) == ["a", "b"]
            # Rules that kept rows break are not made, or no claim could touch those rows.
            await pool_of(queue).execute("UPDATE tasks SET status = 'queued' WHERE type = 'd'")
            assert (await queue.claims.claim("lane", 10)).types == ["d"]
            with pytest.raises(asyncpg.CheckViolationError):
                await pool_of(queue).execute("INSERT INTO tasks (type) VALUES ('')")
    finally:
        await connection.close()


async def test_an_adopted_table_has_the_columns_of_a_new_one(databases: Any) -> None:
    adopted, fresh = await databases.create(migrated=False), await databases.create()
    old, new = await asyncpg.connect(adopted), await asyncpg.connect(fresh)
    try:
        await old.execute(OLDER_SCHEMA)
        await migrate(adopted)
        ours = {row["column_name"]: row["data_type"] for row in await columns_of(new)}
        theirs = {row["column_name"]: row["data_type"] for row in await columns_of(old)}
        assert ours.items() <= theirs.items()
    finally:
        await old.close()
        await new.close()


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("CREATE TABLE tasks (id serial PRIMARY KEY, title text)", "column id is integer, expected uuid"),
        ("CREATE TABLE tasks (id uuid, type text, status text)", "column params is missing"),
        ("CREATE VIEW tasks AS SELECT 1 AS one", "a view called tasks"),
    ],
)
async def test_a_foreign_table_is_left_alone(databases: Any, table: str, names: str) -> None:
    dsn = await databases.create(migrated=False)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(table)
        before = await columns_of(connection)
        with pytest.raises(SchemaMismatch, match=names) as refused:
            await migrate(dsn)
        assert "nothing was changed" in str(refused.value)
        assert await columns_of(connection) == before
        assert await connection.fetchval("SELECT to_regclass('lanes') IS NULL")
    finally:
        await connection.close()


async def test_migrating_an_unreachable_database_is_one_line() -> None:
    with pytest.raises(QueueUnavailable, match=r"127\.0\.0\.1:1"):
        await migrate("postgresql://me:secret@127.0.0.1:1/db")


async def test_a_lock_is_not_waited_for_for_ever(databases: Any) -> None:
    dsn = await databases.create(migrated=False)
    holder = await asyncpg.connect(dsn)
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
        with pytest.raises(QueueUnavailable, match=r"another migration of .* has not ended within 0.5 s"):
            await asyncio.wait_for(migrate(dsn, lock_s=0.5), 60)
        await holder.execute("SELECT pg_advisory_unlock($1)", MIGRATION_LOCK)
        await holder.execute(OLDER_SCHEMA)
        async with holder.transaction():
            await holder.execute("LOCK TABLE tasks IN ROW EXCLUSIVE MODE")
            with pytest.raises(QueueUnavailable, match=r"a table of .* stays locked"):
                await asyncio.wait_for(migrate(dsn), 60)
        await migrate(dsn)
    finally:
        await holder.close()
