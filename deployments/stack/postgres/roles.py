"""Roles and databases of the embedded PostgreSQL, and which part of the stack uses which.

=============  =========================================================================================
``postgres``   The superuser. Only `prepare` connects as it.
``organism``   Owns the database of the tasks. May create databases and roles, because migrations do.
``prefect``    Owns the database of the Prefect server, and may enter no other.
=============  =========================================================================================

Only the user who runs the stack can use them: the server asks the kernel who connects (``peer``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg

SUPERUSER = "postgres"
USER = DATABASE = "organism"
PREFECT = "prefect"
MAINTENANCE = "postgres"
"""Database that every server has."""
STAND_IN = "organism_stand_in"
"""Superuser that renames the superuser of an older data folder."""
Dsn = Callable[[str, str], str]
"""Function that returns the connection URL for a database and a role."""


def access_rules(caller: str) -> dict[str, str]:
    """Return the texts of ``pg_hba.conf`` and ``pg_ident.conf``.

    Args:
        caller: Name of the user who runs the stack.
    """
    return {
        "pg_hba.conf": f"local {PREFECT} {PREFECT} peer map=stack\n"
        f"local all {PREFECT} reject\n"
        "local all all peer map=stack\n",
        "pg_ident.conf": f'stack "{caller}" all\n',
    }


async def prepare(dsn: Dsn) -> None:
    """Create missing roles and databases on a server that answers. Safe to repeat.

    In older data folders the superuser is called ``organism`` and owns the tasks. It is renamed, and the
    tasks get a new owner. Nothing is copied.

    Raises:
        asyncpg.PostgresError: The server refuses.
    """
    import asyncpg

    try:
        async with _session(dsn(MAINTENANCE, SUPERUSER)) as session:
            await _roles_and_databases(session)
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        if "does not exist" not in str(error):
            raise
        await _rename_superuser(dsn)
        async with _session(dsn(MAINTENANCE, SUPERUSER)) as session:
            await _roles_and_databases(session)
    async with _session(dsn(MAINTENANCE, SUPERUSER)) as session:
        owned = await session.fetch(
            "SELECT datname FROM pg_database WHERE datdba = $1::regrole AND NOT datistemplate"
            " AND datallowconn AND datname <> $2",
            SUPERUSER,
            MAINTENANCE,
        )
    for row in owned:
        async with _session(dsn(row["datname"], SUPERUSER)) as session:
            await session.execute((Path(__file__).parent / "owner.sql").read_text(encoding="utf-8"))
    async with _session(dsn(PREFECT, SUPERUSER)) as session:
        # Prefect's own migrations need it.
        await session.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")


async def _roles_and_databases(session: asyncpg.Connection[Any]) -> None:
    await session.execute(f"DROP ROLE IF EXISTS {STAND_IN}")
    roles = {row["rolname"] for row in await session.fetch("SELECT rolname FROM pg_roles")}
    if USER not in roles:
        await session.execute(
            f"CREATE ROLE {USER} LOGIN CREATEDB CREATEROLE;"
            # For `verify`, which reads how old the transactions of other sessions are.
            f"GRANT pg_monitor TO {USER}"
        )
    if PREFECT not in roles:
        await session.execute(f"CREATE ROLE {PREFECT} LOGIN")
    databases = {row["datname"] for row in await session.fetch("SELECT datname FROM pg_database")}
    for database, owner in ((DATABASE, USER), (PREFECT, PREFECT)):
        if database not in databases:
            await session.execute(f"CREATE DATABASE {database} OWNER {owner}")


async def _rename_superuser(dsn: Dsn) -> None:
    # The superuser that created the folder must stay one, and a session cannot rename its own role.
    async with _session(dsn(MAINTENANCE, USER)) as session:
        if not await session.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", STAND_IN):
            await session.execute(f"CREATE ROLE {STAND_IN} LOGIN SUPERUSER")
    async with _session(dsn(MAINTENANCE, STAND_IN)) as session:
        await session.execute(f"ALTER ROLE {USER} RENAME TO {SUPERUSER}")


@asynccontextmanager
async def _session(dsn: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    import asyncpg

    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)
