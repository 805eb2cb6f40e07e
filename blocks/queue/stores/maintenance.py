"""Maintenance of finished tasks: dead letters are queued again, and old tasks are deleted.

All work is done in pages. Each is a short transaction that skips rows which another transaction has locked.
So claims and settlements never wait for it. Work that is cut short can be continued later.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.db.bisection import in_halves, logger, one_line
from organism_flows.blocks.queue.db.connection import behind_pooler, connect, describe
from organism_flows.blocks.queue.db.sqlstates import verdict
from organism_flows.blocks.queue.db.statements import statement
from organism_flows.blocks.queue.models import Finished, Redrivable, RedriveFilter, Redriven, TaskSummary
from organism_flows.blocks.queue.stores.control import RACES, Control

REDRIVE_TIMEOUT = 30.0
PRUNE_TIMEOUT = 30.0
COUNT_TIMEOUT = 60.0
LOCK_TIMEOUT = 5.0
"""Longest wait for the answer to an attempt to lock, in seconds."""
REDRIVE_PAGE = 2000
"""Most finished tasks that one statement reads, redriven or not."""
PRUNE_PAGE = 1000
"""Most rows that one statement deletes."""


class Upkeep(Control):
    """Operations of `blocks.queue.Queue` for maintenance."""

    direct_dsn: str

    async def redrivable(self, wanted: RedriveFilter, *, sample: int = 10) -> Redrivable:
        """Return how many tasks a `redrive` would queue now, and the first of them to finish.

        Args:
            wanted: Which tasks.
            sample: Most tasks to return.
        """
        arguments = (list(wanted.statuses), *_fields(wanted), wanted.since, wanted.until)
        count = await self.pool.fetchval(statement("redrivable"), *arguments, timeout=COUNT_TIMEOUT)
        rows = await self.pool.fetch(
            statement("redrivable_sample"), *arguments, sample, timeout=COUNT_TIMEOUT
        )
        return Redrivable(cast("int", count), [TaskSummary.model_validate(dict(row)) for row in rows])

    async def redrive(
        self, wanted: RedriveFilter, *, actor: str, limit: int | None = None, page: int = REDRIVE_PAGE
    ) -> Redriven:
        """Queue finished tasks again, due now, with all their attempts before them.

        Their last error goes into their history, under the cause ``redriven``. Tasks that finish after the
        call began are not touched, so a task that fails again meanwhile stays a dead letter.

        Args:
            wanted: Which tasks. Only dead letters, unless it includes cancelled tasks.
            actor: Name of the caller, for the audit.
            limit: Most tasks to redrive, those that finished first. `None` means all.
            page: Finished tasks to read in one statement.
        """
        began = await self.now()
        until = min(wanted.until or began, began)
        done = Redriven(uuid7())
        asked = orjson.dumps({**wanted.model_dump(mode="json"), "limit": limit}).decode()
        for status in wanted.statuses:
            after: tuple[Any, UUID | None] = (None, None)
            size = page
            while limit is None or done.redriven < limit:
                left = size if limit is None else min(size, limit - done.redriven)
                told = (*_fields(wanted), wanted.since, until, *after, size, left, done.audit, actor, asked)
                try:
                    row = await self._redrive_page(status, *told)
                except Exception as error:
                    if verdict(error) != "value":
                        raise
                    if size == 1:
                        after = await self._pass_over(status, wanted.since, until, after, error)
                    size = page if size == 1 else size // 2
                    continue
                done.redriven += row["redriven"]
                done.kept_out += row["kept_out"]
                after = (row["finished_at"], row["id"])
                if row["looked_at"] < size:
                    break
        return done

    async def _pass_over(
        self, status: Finished, since: Any, until: Any, after: tuple[Any, UUID | None], why: Exception
    ) -> tuple[Any, UUID | None]:
        """Log the first task after ``after``, which cannot be redriven, and return its place."""
        row = await self.pool.fetchrow(
            statement("next_finished"), status, since, until, *after, timeout=REDRIVE_TIMEOUT
        )
        if row is None:
            raise why
        logger.error("task %s cannot be redriven: %s", row["id"], one_line(why))
        return row["finished_at"], row["id"]

    async def _redrive_page(self, *arguments: Any, races: int = RACES) -> Any:
        try:
            return await self.pool.fetchrow(statement("redrive"), *arguments, timeout=REDRIVE_TIMEOUT)
        except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError):
            if races == 0:
                raise
        # A task with the key of one of these was submitted at the same moment. Now it is visible.
        return await self._redrive_page(*arguments, races=races - 1)

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
            arguments = (status, older_than_s, newest, page)
            try:
                row = await self.pool.fetchrow(statement("prune"), *arguments, timeout=PRUNE_TIMEOUT)
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
            number = await self.pool.fetchval(statement("prune_some"), status, ids, timeout=PRUNE_TIMEOUT)
            return cast("int", number)

        async def refused(task: UUID, why: Exception) -> None:
            logger.error("task %s cannot be deleted: %s", task, one_line(why))

        while True:
            rows = await self.pool.fetch(
                statement("prunable"), status, older_than_s, *after, page, timeout=PRUNE_TIMEOUT
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
        rows = await self.pool.fetch(statement("forget_lanes"), dead_for_s, timeout=PRUNE_TIMEOUT)
        return len(rows)

    async def prune_audit(self, *, older_than_s: float) -> int:
        """Delete rows of ``task_audit`` that are older than ``older_than_s`` seconds, up to `PRUNE_PAGE`.

        Returns:
            How many were deleted.
        """
        rows = await self.pool.fetch(
            statement("prune_audit"), older_than_s, PRUNE_PAGE, timeout=PRUNE_TIMEOUT
        )
        return len(rows)

    async def forget_files(self, *, older_than_s: float) -> int:
        """Delete up to `PRUNE_PAGE` notes of files whose last part was loaded ``older_than_s`` seconds ago.

        Loading such a file again then adds all its tasks again.

        Returns:
            How many were deleted.
        """
        rows = await self.pool.fetch(
            statement("forget_files"), older_than_s, PRUNE_PAGE, timeout=PRUNE_TIMEOUT
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
        connection = await connect(self.direct_dsn, command_timeout=LOCK_TIMEOUT)
        try:
            if await behind_pooler(connection):
                raise ConfigurationError(
                    f"no lock can be held through the pooler at {describe(self.direct_dsn)}",
                    "set ORGANISM_DIRECT_DSN to Postgres itself",
                )
            yield bool(await connection.fetchval(statement("exclusive"), key))
        finally:
            # The lock ends with the socket. A regular close could wait for a Postgres that does not answer.
            connection.terminate()


def _fields(wanted: RedriveFilter) -> tuple[str | None, str | None, str | None]:
    return wanted.type, wanted.domain, wanted.error
