"""Running of the statements in ``sql/``."""

from __future__ import annotations

from typing import Any

from organism_flows.blocks.queue.db import statements


class Session:
    """One connection, on which statements run by name, with their parameters as keywords.

    Args:
        connection: Connection of asyncpg.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def connection(self) -> Any:
        """Return the connection."""
        return self._connection

    async def fetch(self, name: str, /, *, timeout: float | None = None, **values: Any) -> list[Any]:
        """Return the rows that the statement ``name`` returns."""
        statement = statements.statement(name)
        rows: list[Any] = await self.connection.fetch(
            statement.text, *statement.arguments(values), timeout=timeout
        )
        return rows

    async def fetchrow(self, name: str, /, *, timeout: float | None = None, **values: Any) -> Any:
        """Return its first row, or `None`."""
        statement = statements.statement(name)
        return await self.connection.fetchrow(statement.text, *statement.arguments(values), timeout=timeout)

    async def fetchval(self, name: str, /, *, timeout: float | None = None, **values: Any) -> Any:
        """Return the first value of its first row, or `None`."""
        statement = statements.statement(name)
        return await self.connection.fetchval(statement.text, *statement.arguments(values), timeout=timeout)

    async def execute(self, name: str, /, *, timeout: float | None = None, **values: Any) -> None:
        """Run it."""
        statement = statements.statement(name)
        await self.connection.execute(statement.text, *statement.arguments(values), timeout=timeout)
