"""Deletion of what is old: finished tasks, ended lanes, and notes.

All work is done in pages. Each is a short transaction that skips rows which another transaction has locked.
So claims and settlements never wait for it. Work that is cut short can be continued later.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.db.bisection import in_halves, logger, one_line
from organism_flows.blocks.queue.db.connection import behind_pooler, connect, describe
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.db.sqlstates import verdict
from organism_flows.blocks.queue.models.operations import Finished

PRUNE_TIMEOUT = 30.0
LOCK_TIMEOUT = 5.0
"""Longest wait for the answer to an attempt to lock, in seconds."""
PRUNE_PAGE = 1000
"""Most rows that one statement deletes."""


class Maintenance:
    """Deletes what is old.

    Args:
        database: The queue's database.
        direct_dsn: Connection URL past a pooler.
    """

    def __init__(self, database: Database, *, direct_dsn: str) -> None:
        self._database = database
        self._direct_dsn = direct_dsn

    async def prune(
        self, status: Finished, *, older_than_s: float, within_s: float = 60.0, page: int = PRUNE_PAGE
    ) -> int:
        """Delete tasks that finished with ``status`` long ago, with their history, oldest first.

        Args:
            status: Status of the tasks to delete.
            older_than_s: Seconds since they finished.
            within_s: Seconds after which no further page begins. The next call continues.
            page: Tasks deleted in one statement.

        Returns:
            How many tasks were deleted.
        """
        deleted, newest = 0, None
        deadline = time.monotonic() + within_s
        while True:
            # Begin where the last page ended: index entries of deleted tasks stay until they are vacuumed.
            try:
                row = await self._database.fetchrow(
                    "prune",
                    status=status,
                    older_than_s=older_than_s,
                    begin=newest,
                    limit=page,
                    timeout=PRUNE_TIMEOUT,
                )
            except Exception as error:
                if verdict(error) != "value":
                    raise
                return deleted + await self._prune_some(status, older_than_s, deadline, page)
            assert row is not None
            deleted += cast("int", row["tasks"])
            newest = row["newest"] or newest
            if row["tasks"] < page or time.monotonic() >= deadline:
                return deleted

    async def _prune_some(self, status: Finished, older_than_s: float, deadline: float, page: int) -> int:
        """Delete the tasks that Postgres lets go: a table of the user may refer to some of them."""
        deleted = 0
        after: tuple[Any, UUID | None] = (None, None)

        async def write(ids: Sequence[UUID]) -> int:
            number = await self._database.fetchval(
                "prune_some", status=status, ids=ids, timeout=PRUNE_TIMEOUT
            )
            return cast("int", number)

        async def refused(task: UUID, why: Exception) -> None:
            logger.error("task %s cannot be deleted: %s", task, one_line(why))

        while True:
            rows = await self._database.fetch(
                "prunable",
                status=status,
                older_than_s=older_than_s,
                after=after[0],
                after_id=after[1],
                limit=page,
                timeout=PRUNE_TIMEOUT,
            )
            deleted += sum(await in_halves([row["id"] for row in rows], write, refused))
            if len(rows) < page or time.monotonic() >= deadline:
                return deleted
            after = (rows[-1]["finished"], rows[-1]["id"])

    async def forget_lanes(self, *, dead_for_s: float) -> int:
        """Delete the rows of lanes that have ended and were last heard of ``dead_for_s`` seconds ago.

        Returns:
            How many were deleted.
        """
        rows = await self._database.fetch("forget_lanes", dead_for_s=dead_for_s, timeout=PRUNE_TIMEOUT)
        return len(rows)

    async def forget_levels(self) -> int:
        """Delete the levels of rates that are full again: those of keys that have been idle for long.

        Returns:
            How many were deleted.
        """
        return len(await self._database.fetch("forget_levels", timeout=PRUNE_TIMEOUT))

    async def expire(self, *, page: int = PRUNE_PAGE) -> int:
        """Make waiting tasks that have expired dead letters, and return how many there were.

        Args:
            page: Most tasks that one statement writes.
        """

        async def write(ids: Sequence[UUID]) -> int:
            return len(await self._database.fetch("expire", ids=ids, timeout=PRUNE_TIMEOUT))

        async def refused(task: UUID, why: Exception) -> int:
            logger.error("task %s has expired and cannot be written: %s", task, one_line(why))
            return 0

        expired = 0
        while True:
            rows = await self._database.fetch("expirable", limit=page, timeout=PRUNE_TIMEOUT)
            done = sum(await in_halves([row["id"] for row in rows], write, refused)) if rows else 0
            expired += done
            # What another lane expires at this moment, or Postgres refuses, is left.
            if len(rows) < page or not done:
                return expired

    async def forget_closures(self) -> int:
        """Delete closures that are over, and return how many there were."""
        return len(await self._database.fetch("forget_closures", timeout=PRUNE_TIMEOUT))

    async def forget_spending(self) -> int:
        """Delete what was spent before the period of its limit, and return how many rows there were."""
        return len(await self._database.fetch("forget_spending", timeout=PRUNE_TIMEOUT))

    async def prune_audit(self, *, older_than_s: float) -> int:
        """Delete rows of ``task_audit`` that are older than ``older_than_s`` seconds, up to `PRUNE_PAGE`.

        Returns:
            How many were deleted.
        """
        rows = await self._database.fetch(
            "prune_audit", older_than_s=older_than_s, limit=PRUNE_PAGE, timeout=PRUNE_TIMEOUT
        )
        return len(rows)

    async def forget_files(self, *, older_than_s: float) -> int:
        """Delete up to `PRUNE_PAGE` notes of files whose last part was loaded ``older_than_s`` seconds ago.

        Loading such a file again then adds all its tasks again.

        Returns:
            How many were deleted.
        """
        rows = await self._database.fetch(
            "forget_files", older_than_s=older_than_s, limit=PRUNE_PAGE, timeout=PRUNE_TIMEOUT
        )
        return len(rows)

    @asynccontextmanager
    async def exclusive(self, key: int) -> AsyncIterator[bool]:
        """Yield True if this is the only holder of ``key`` in this database while the block runs.

        It is an advisory lock on a separate session, so it ends with the process, however that ends.

        Args:
            key: Key of the lock.

        Raises:
            ConfigurationError: The connection leads through a pooler, which has no sessions.
            QueueUnavailable: Postgres cannot be reached.
        """
        connection = await connect(self._direct_dsn, command_timeout=LOCK_TIMEOUT)
        try:
            if await behind_pooler(connection):
                raise ConfigurationError(
                    f"no lock can be held through the pooler at {describe(self._direct_dsn)}",
                    "set ORGANISM_DIRECT_DSN to Postgres itself",
                )
            yield bool(await Session(connection).fetchval("exclusive", key=key))
        finally:
            # The lock ends with the socket. A regular close could wait for a Postgres that does not answer.
            connection.terminate()
