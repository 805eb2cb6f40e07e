"""Migration of a database to the schema of this version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from organism_flows.blocks.errors import ConfigurationError, OrganismError, QueueUnavailable, SchemaMismatch
from organism_flows.blocks.queue.db.connection import behind_pooler, connect, describe
from organism_flows.blocks.queue.db.roles import MIGRATOR, ROLES, PrivilegeMissing
from organism_flows.blocks.queue.db.sqlstates import verdict
from organism_flows.blocks.queue.models.operations import Status

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.exc import DBAPIError

MIGRATIONS = Path(__file__).parents[1] / "migrations"
MIGRATION_LOCK = 0x6F7267616E69  # "organi": one migrator at a time in a database
LOCK_POLL_S = 0.2
LOCK_S = 600.0
"""Longest wait for another migrator, in seconds. Building the indexes of a large table takes minutes; a
migration that takes longer may hang."""
READ_TIMEOUT = 10.0
MEANINGS = "meanings"
"""Attribute of Alembic's configuration that holds the status for each label of an older table."""
OWNER = f"""
    SELECT session_user, coalesce(
        (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('tasks')), '{MIGRATOR}')
"""  # noqa: S608
"""Query for the login, and for the role that may migrate: the owner of the tables, or of those to be created.
"""


async def migrate(
    dsn: str, *, meanings: Mapping[str, Status] | None = None, lock_s: float = LOCK_S
) -> list[str]:
    """Migrate to the newest schema. Safe to run several times at once, and while lanes run.

    Also creates the group roles of `blocks.queue.db.roles`, if this login may create roles, and sets their
    privileges.

    Args:
        dsn: Postgres connection URL.
        meanings: Status by label, for labels of an older table that are not ours even in another case.
        lock_s: Longest wait for another migrator, in seconds.

    Returns:
        The group roles that are missing because this login may not create them. If one is missing, no
        privileges are set.

    Raises:
        ConfigurationError: ``dsn`` leads through a pooler.
        PrivilegeMissing: The login does not own the tables, or may not create any.
        QueueUnavailable: Postgres cannot be reached or refuses the connection, another migrator does not end,
            or a table stays locked.
        SchemaMismatch: A table called ``tasks`` cannot be adopted, or Postgres refuses a change.
    """
    # These imports take half a second, and only a migration needs them.
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def creator() -> asyncpg.Connection[Any]:
        connection = await connect(dsn)
        if await behind_pooler(connection):
            connection.terminate()
            # The lock would stay on one of the pooler's server connections, and lock out every migrator.
            raise ConfigurationError(
                f"no migration through the pooler at {describe(dsn)}",
                "set ORGANISM_DIRECT_DSN to Postgres itself",
            )
        return connection

    # The connection is made by asyncpg itself, so that one URL means the same thing here and in the queue.
    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            # Polled: a migrator that waits inside a statement has a snapshot, and one that builds an index
            # concurrently would wait for that snapshot.
            deadline = time.monotonic() + lock_s
            while not await connection.scalar(
                text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}
            ):
                await connection.commit()
                if time.monotonic() > deadline:
                    raise QueueUnavailable(
                        f"another migration of {describe(dsn)} has not ended within {lock_s:g} s",
                        "wait for it, or end its session: the pid in pg_locks where locktype is advisory",
                    )
                await asyncio.sleep(LOCK_POLL_S)
            await connection.commit()
            try:
                await connection.run_sync(_upgrade, meanings or {})
                missing = await connection.run_sync(_set_privileges)
            except DBAPIError as error:
                await connection.rollback()
                if getattr(error.orig, "sqlstate", None) != "42501":
                    raise _broken_off(dsn, error) from error
                login, owner = (await connection.execute(text(OWNER))).one()
                raise PrivilegeMissing(
                    f"Postgres does not let {login} migrate {describe(dsn)}: {_cause(error)}",
                    f'migrate as their owner, or have an administrator GRANT "{owner}" TO "{login}"; '
                    "see docs/how-to/roles.md",
                ) from None
            await connection.commit()
            return missing
    finally:
        await engine.dispose()


async def pending(dsn: str) -> list[str]:
    """Return the names of the migrations that the database still needs. Empty if it is up to date.

    Args:
        dsn: Postgres connection URL.

    Raises:
        QueueUnavailable: Postgres cannot be reached or refuses the connection.
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
    """Run the SQL script of a migration, in the migration's transaction.

    Args:
        migration: The ``__file__`` of the migration. The script of ``v0001_tasks.py`` is ``v0001_tasks.sql``.
    """
    from alembic import op

    _run_steps(op.get_bind(), Path(migration).with_suffix(".sql"))


def _cause(error: DBAPIError) -> BaseException:
    # SQLAlchemy wraps what asyncpg raised, and repeats the class in the text.
    return (error.orig and error.orig.__cause__) or error.orig or error


def _run_steps(connection: Connection, script: Path) -> None:
    # asyncpg prepares what it runs, and Postgres prepares one statement at a time.
    for statement in script.read_text(encoding="utf-8").split("\n-- step: ")[1:]:
        _name, _, sql = statement.partition("\n")
        connection.exec_driver_sql(sql)


def _set_privileges(connection: Connection) -> list[str]:
    """Create the group roles and set their privileges. Return the roles that are missing."""
    _run_steps(connection, MIGRATIONS / "roles.sql")
    known = set(connection.exec_driver_sql("SELECT rolname FROM pg_roles").scalars())
    missing = [role for role in ROLES if role not in known]
    if not missing:
        _run_steps(connection, MIGRATIONS / "grants.sql")
    return missing


def _broken_off(dsn: str, error: DBAPIError) -> OrganismError:
    """Return the one line for a migration that Postgres ended."""
    cause = _cause(error)
    state = getattr(cause, "sqlstate", None)
    if state == "55P03":
        return QueueUnavailable(
            f"a table of {describe(dsn)} stays locked: {cause}",
            "end the transaction that holds it (pg_locks, pg_stat_activity), and migrate again",
        )
    if verdict(cause) == "passes":
        return QueueUnavailable(
            f"a migration of {describe(dsn)} broke off: {cause}",
            "free disk space, or wait until Postgres is back, and migrate again: it goes on where it stopped",
        )
    return SchemaMismatch(
        f"Postgres refuses a migration of {describe(dsn)}: {cause}",
        "mend what it names, and migrate again: it goes on where it stopped",
    )


def _upgrade(connection: Connection, meanings: Mapping[str, Status]) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy.exc import PendingRollbackError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    config.attributes[MEANINGS] = meanings
    try:
        command.upgrade(config, "head")
    except PendingRollbackError as error:
        # Alembic's `autocommit_block` commits even if its block has lost the connection, or was cancelled
        # (1.20.1). That fails, and hides why.
        raise error.__context__ or error from None
