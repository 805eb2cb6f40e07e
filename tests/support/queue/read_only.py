"""A database that refuses writes for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg


@asynccontextmanager
async def refusing_writes(dsn: str, state: str) -> AsyncIterator[None]:
    """Have every write of a task fail with ``state``."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{state}'; END $$; "
            "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        yield
        await connection.execute("DROP FUNCTION refuse CASCADE")
    finally:
        await connection.close()


async def set_read_only(dsn: str, name: str, value: str) -> None:
    """Make the database read only for new sessions, and end those there are, as a fail-over does."""
    connection = await asyncpg.connect(dsn, server_settings={"default_transaction_read_only": "off"})
    try:
        await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}')
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
