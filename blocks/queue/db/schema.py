"""Which version of the tables this code is for."""

from __future__ import annotations

import asyncpg

from organism_flows.blocks.errors import SchemaMismatch
from organism_flows.blocks.queue.db.session import Session

SCHEMA_VERSION = "0020"
"""Number of the newest migration. Newer tables are fine: they serve the versions before them too."""
CHECK_TIMEOUT = 10.0


async def check_schema(session: Session) -> None:
    """Refuse a database whose tables are older than this code.

    Raises:
        SchemaMismatch: They are, or there are none.
    """
    try:
        version = await session.fetchval("schema_version", timeout=CHECK_TIMEOUT)
    except asyncpg.UndefinedTableError:
        version = None
    except asyncpg.InsufficientPrivilegeError:
        return  # a login with grants of its own, which may do some things all the same
    if version is None or version < SCHEMA_VERSION:
        found = f"the tables are of version {version}" if version else "the database has no tasks table"
        raise SchemaMismatch(
            f"{found}, and this needs version {SCHEMA_VERSION}",
            "run `organism up` (embedded) or `organism migrate` (your own Postgres)",
        )
