"""The database of a queue: its pool of connections, opened and closed, and the statements that run on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from organism_flows.blocks.queue.db.connection import CONNECT_ERRORS, open_pool, unavailable
from organism_flows.blocks.queue.db.schema import check_schema
from organism_flows.blocks.queue.db.session import Session

CLOSE_TIMEOUT = 5.0


class Database(Session):
    """A pool of connections: each statement runs on one that is free.

    Args:
        dsn: Postgres connection URL.
        connections: Most connections at once.
        application_name: Name of the connections in Postgres.
    """

    def __init__(self, dsn: str, *, connections: int, application_name: str) -> None:
        super().__init__(None)
        self._dsn = dsn
        self._connections = connections
        self._application_name = application_name
        self._pool: asyncpg.Pool[Any] | None = None

    @property
    def connection(self) -> asyncpg.Pool[Any]:
        """Return the pool. asyncpg replaces broken connections when they are next needed."""
        if self._pool is None:
            raise RuntimeError("the queue is not open: use `async with Queue(dsn) as queue`")
        return self._pool

    async def open(self) -> None:
        """Connect, and check the version of the tables.

        Raises:
            QueueUnavailable: Postgres cannot be reached, or refuses the login.
            SchemaMismatch: The tables are older than this code.
        """
        try:
            self._pool = await open_pool(
                self._dsn,
                connections=self._connections,
                application_name=self._application_name,
            )
            await check_schema(self)
        except CONNECT_ERRORS as error:
            await self.close()
            raise unavailable(self._dsn, error) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every connection. One that does not answer is cut off after five seconds."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), CLOSE_TIMEOUT)
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def session(self, *, timeout: float | None = None) -> AsyncIterator[Session]:
        """Yield one connection of the pool for the length of a block."""
        async with self.connection.acquire(timeout=timeout) as connection:
            yield Session(connection)

    @asynccontextmanager
    async def transaction(self, *, timeout: float | None = None) -> AsyncIterator[Session]:
        """Yield one connection of the pool, in a transaction that the end of the block commits."""
        async with self.session(timeout=timeout) as session, session.connection.transaction():
            yield session
