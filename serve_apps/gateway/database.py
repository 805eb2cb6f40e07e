"""The queue behind the gateway. Postgres may be away when the gateway starts, and at any time after."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Self

from organism_flows.blocks.errors import OrganismError, QueueUnavailable
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS

OUTAGE: tuple[type[BaseException], ...] = (OrganismError, *TRANSIENT_ERRORS)
"""Errors that any use of the queue may raise while Postgres is away."""
CONNECTIONS = 4
OPEN_DELAYS_S = (0.2, 0.5, 1.0, 2.0)
"""Pauses between tries to open the queue, in seconds; the last one repeats."""
FIRST_TRY_S = 5.0
"""Longest time a start waits for the first try to open the queue, in seconds."""
READY_TIMEOUT_S = 3.0
CHECK_PAUSE_S = 0.2
"""Time for which a successful check of writes stays valid, in seconds: any client may ask for one."""


class Database:
    """The gateway's queue, opened as soon as Postgres allows it.

    Once the queue is open, its pool replaces broken connections.

    Args:
        dsn: Postgres connection URL.
        direct_dsn: Connection URL of the same database past a pooler.
        connections: Most connections to Postgres.
    """

    def __init__(self, dsn: str, *, direct_dsn: str | None = None, connections: int = CONNECTIONS) -> None:
        self._dsn = dsn
        self._direct_dsn = direct_dsn
        self._connections = connections
        self._queue: Queue | None = None
        self._reason: OrganismError = QueueUnavailable("the queue is still being opened", "try again")
        self._tried = asyncio.Event()
        self._checking = asyncio.Lock()
        self._checked_at = -CHECK_PAUSE_S
        self._task: asyncio.Task[None] | None = None

    @property
    def queue(self) -> Queue:
        """Return the open queue.

        Raises:
            OrganismError: The queue could not be opened yet. The message is that of the last try.
        """
        if self._queue is None:
            raise self._reason
        return self._queue

    async def check(self) -> None:
        """Check that Postgres answers, and that tasks can be added now or could be `CHECK_PAUSE_S` ago.

        Raises:
            OrganismError: The queue is not open yet.
            Exception: No task can be added: Postgres does not answer, is read only, or has no disk space.
        """
        async with asyncio.timeout(READY_TIMEOUT_S), self._checking:
            if time.monotonic() - self._checked_at <= CHECK_PAUSE_S:
                await self.queue.reader.now()
            else:
                await self.queue.health.check_writes()
                self._checked_at = time.monotonic()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._open(), name="gateway-database")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), FIRST_TRY_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._queue is not None:
            await self._queue.close()

    async def _open(self) -> None:
        tries = 0
        while self._queue is None:
            queue = Queue(
                self._dsn,
                direct_dsn=self._direct_dsn,
                connections=self._connections,
                application_name="organism-gateway",
            )
            try:
                self._queue = await queue.__aenter__()
            except OrganismError as error:
                self._reason = error
            self._tried.set()
            if self._queue is None:
                await asyncio.sleep(OPEN_DELAYS_S[min(tries, len(OPEN_DELAYS_S) - 1)])
                tries += 1
