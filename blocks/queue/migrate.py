"""Bring a database to the schema of this version."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from blocks.errors import ConfigurationError
from blocks.queue.connection import behind_pooler, connect, describe

if TYPE_CHECKING:
    from sqlalchemy import Connection

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x6F7267616E69  # "organi": one migrator at a time in a database
LOCK_POLL_S = 0.2
READ_TIMEOUT = 10.0


async def migrate(dsn: str) -> None:
    """Migrate to the newest schema; safe to run at once from several places and under live lanes.

    Args:
        dsn: Postgres connection URL.

    Raises:
        ConfigurationError: ``dsn`` leads through a pooler.
        QueueUnavailable: Postgres cannot be reached or refuses us.
        SchemaMismatch: A foreign table called ``tasks`` is in the way.
    """

    # Half a second of imports that only a migration needs.
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def creator() -> asyncpg.Connection[Any]:
        connection = await connect(dsn)
        if await behind_pooler(connection):
            connection.terminate()
            # The lock would be left behind on one of its server connections, and lock out every migrator.
            raise ConfigurationError(
                f"no migration through the pooler at {describe(dsn)}",
                "set ORGANISM_DIRECT_DSN to Postgres itself",
            )
        return connection

    # The connection is made by asyncpg itself, so that one URL means the same thing here and in the queue.
    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            # Asked for again and again: a migrator that waits inside a statement has a snapshot, and the one
            # that builds an index concurrently would wait for it.
            while not await connection.scalar(
                text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}
            ):
                await connection.commit()
                await asyncio.sleep(LOCK_POLL_S)
            await connection.commit()
            await connection.run_sync(_upgrade)
            await connection.commit()
    finally:
        await engine.dispose()


async def pending(dsn: str) -> list[str]:
    """Names of the migrations of this version that the database has not had; empty when it is up to date.

    Raises:
        QueueUnavailable: Postgres cannot be reached or refuses us.
    """
    known = sorted(path.stem for path in (MIGRATIONS / "versions").glob("v*.py"))
    connection = await connect(dsn)
    try:
        there = await connection.fetchval(
            "SELECT to_regclass('organism_migrations') IS NOT NULL", timeout=READ_TIMEOUT
        )
        if not there:
            return known
        applied = await connection.fetch("SELECT version_num FROM organism_migrations", timeout=READ_TIMEOUT)
    finally:
        await connection.close()
    newest = max((row["version_num"] for row in applied), default="")
    return [name for name in known if name[1:5] > newest]


def run_script(migration: str) -> None:
    """Run the SQL script beside a migration, in the migration that is under way.

    Args:
        migration: Its ``__file__``; beside ``v0001_tasks.py`` lies ``v0001_tasks.sql``.
    """
    from alembic import op

    script = Path(migration).with_suffix(".sql").read_text(encoding="utf-8")
    # asyncpg prepares what it runs, and Postgres prepares one statement at a time.
    for statement in script.split("\n-- step: ")[1:]:
        _name, _, sql = statement.partition("\n")
        op.get_bind().exec_driver_sql(sql)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
