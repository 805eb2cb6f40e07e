"""Wake-ups by LISTEN, on a separate connection.

A probe needs nothing but an answer. On a direct connection to Postgres, a session that answers also receives
its notifications. A pooler that accepts LISTEN without keeping it is detected when connecting.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Self

import asyncpg

from organism_flows.blocks.errors import QueueUnavailable
from organism_flows.blocks.queue.db.connection import CONNECT_ERRORS, behind_pooler, connect, describe

CHANNEL = "organism_tasks"
RECONNECT_DELAYS = (0.1, 0.3, 1.0, 3.0)
"""Seconds to wait before a reconnect, by the number of failures in a row."""
PROBE_INTERVAL = 5.0
"""Seconds between round trips on the idle connection: one that broke silently does not report it."""
PROBE_TIMEOUT = 3.0

logger = logging.getLogger("organism.queue")


class Listener:
    """Sets events when Postgres sends notifications.

    ``event`` is set when a task became ready, ``cancel`` when a running task is to be cancelled, and
    ``asked`` when lanes are asked to stop or to leave. All of them are set when notifications may have been
    missed.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.event = asyncio.Event()
        self.cancel = asyncio.Event()
        self.asked = asyncio.Event()
        self.listening = asyncio.Event()
        """Set while the connection is up."""
        self._ready = 0
        self._task: asyncio.Task[None] | None = None

    def heard(self) -> int | None:
        """Return how often tasks have become ready so far. `None` while that may go unnoticed."""
        return self._ready if self.listening.is_set() else None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_listening(), name="organism-listener")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _keep_listening(self) -> None:
        failures = 0
        while True:
            with suppress(QueueUnavailable, *CONNECT_ERRORS):
                if not await self._listen_until_broken():
                    return
            failures = 0 if self.listening.is_set() else failures + 1
            self.listening.clear()
            self._set_all()
            await asyncio.sleep(RECONNECT_DELAYS[min(failures, len(RECONNECT_DELAYS) - 1)])

    async def _listen_until_broken(self) -> bool:
        """Listen until the connection breaks. Return False if it cannot listen at all."""
        connection: asyncpg.Connection[Any] = await connect(
            self._dsn, server_settings={"application_name": "organism-listener"}
        )
        broken = asyncio.Event()
        try:
            if await behind_pooler(connection):
                logger.warning(
                    "no LISTEN through the pooler at %s: lanes find new tasks by polling → "
                    "set ORGANISM_DIRECT_DSN to Postgres itself",
                    describe(self._dsn),
                )
                return False
            connection.add_termination_listener(lambda _: broken.set())
            await connection.add_listener(CHANNEL, self._hear)
            self.listening.set()
            self._set_all()
            while not broken.is_set():
                # Not asyncio.wait_for: until Python 3.12 it may swallow a cancellation, and `__aexit__` would
                # then wait for this loop for ever (bpo-37658).
                with suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_INTERVAL):
                        await broken.wait()
                    break
                await connection.execute("SELECT 1", timeout=PROBE_TIMEOUT)
            return True
        finally:
            if not connection.is_closed():
                connection.terminate()

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        event = {"cancel": self.cancel, "stop": self.asked}.get(str(payload), self.event)
        self._ready += event is self.event
        event.set()

    def _set_all(self) -> None:
        self._ready += 1
        for event in (self.event, self.cancel, self.asked):
            event.set()
