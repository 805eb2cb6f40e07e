"""Logins of the tests' Postgres that may do less than its owner."""

from __future__ import annotations

from itertools import count

import asyncpg

NUMBERS = count(1)


async def execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def new_login(dsn: str, *roles: str) -> str:
    """URL of the same database, as a login that is in ``roles`` and may do nothing else."""
    user = f"login_{next(NUMBERS)}"
    member = f"IN ROLE {', '.join(roles)}" if roles else ""
    await execute(dsn, f"CREATE ROLE {user} LOGIN {member}")
    return dsn.replace("//organism@", f"//{user}@")
