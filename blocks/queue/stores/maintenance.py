"""Upkeep of what has finished: dead letters go back into the queue, and what is old goes away.

Everything is done in pages, each a short transaction of its own that skips what somebody else has locked:
claims and settlements never wait for it, and cut short anywhere, it is simply not finished.
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
"""Named timeouts, in seconds."""
REDRIVE_PAGE = 2000
"""Finished tasks a statement looks at, be they redriven or not."""
PRUNE_PAGE = 1000


class Upkeep(Control):
    """The half of `blocks.queue.Queue` that keeps house."""

    direct_dsn: str

    async def redrivable(self, wanted: RedriveFilter, *, sample: int = 10) -> Redrivable:
        """How many tasks a `redrive` would find now, and the ``sample`` that finished first."""
        arguments = (list(wanted.statuses), *_fields(wanted), wanted.since, wanted.until)
        count = await self.pool.fetchval(statement("redrivable"), *arguments, timeout=COUNT_TIMEOUT)
        rows = await self.pool.fetch(
            statement("redrivable_sample"), *arguments, sample, timeout=COUNT_TIMEOUT
        )
        return Redrivable(cast("int", count), [TaskSummary.model_validate(dict(row)) for row in rows])

    async def redrive(
        self, wanted: RedriveFilter, *, actor: str, limit: int | None = None, page: int = REDRIVE_PAGE
    ) -> Redriven:
        """Put finished tasks back: ready now, with all their attempts before them.

        What they failed with goes into their history, under the cause ``redriven``. Nothing that finishes
        after the call began is touched, so a task that fails again meanwhile stays a dead letter.

        Args:
            wanted: Which; dead letters, unless it says otherwise.
            actor: Who does this, for the audit.
            limit: Most tasks to redrive, those that finished first; None: all.
            page: Finished tasks to look at in one statement.
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
        """Name the first task after ``after``, which cannot be redriven; returns its place."""
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
        # A task with the key of one of these was submitted in the same moment; now it can be seen.
        return await self._redrive_page(*arguments, races=races - 1)

    async def prune(
        self, status: Finished, *, older_than_s: float, within_s: float = 60.0, page: int = PRUNE_PAGE
    ) -> int:
        """Delete tasks that finished with ``status`` long ago, with their history, the oldest first.

        Args:
            older_than_s: Seconds since they finished.
            within_s: Begin no further page after so many seconds; the next call goes on.
            page: Tasks deleted in one statement.

        Returns:
            How many were deleted.
        """
        deleted, newest = 0, None
        deadline = time.monotonic() + within_s
        while True:
            # From where the last page ended: what is deleted stays in the index until it is vacuumed.
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
        """Delete what Postgres lets go: a table of the user's own may refer to a task, say."""
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
        """Delete rows of lanes that ended and were last heard so many seconds ago; returns how many."""
        rows = await self.pool.fetch(statement("forget_lanes"), dead_for_s, timeout=PRUNE_TIMEOUT)
        return len(rows)

    async def prune_audit(self, *, older_than_s: float) -> int:
        """Delete the notes in ``task_audit`` that are older; returns how many."""
        rows = await self.pool.fetch(
            statement("prune_audit"), older_than_s, PRUNE_PAGE, timeout=PRUNE_TIMEOUT
        )
        return len(rows)

    async def forget_files(self, *, older_than_s: float) -> int:
        """Forget files whose last part was loaded so many seconds ago; returns how many.

        Loading one of them again then adds all its tasks again.
        """
        rows = await self.pool.fetch(
            statement("forget_files"), older_than_s, PRUNE_PAGE, timeout=PRUNE_TIMEOUT
        )
        return len(rows)

    @asynccontextmanager
    async def exclusive(self, key: int) -> AsyncIterator[bool]:
        """Whether this is the only one to hold ``key`` in this database, for as long as the block lasts.

        It is an advisory lock of a session of its own, so it ends with the process, however that ends.

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
            # The lock ends with the socket; a word of goodbye could wait for a Postgres that does not answer.
            connection.terminate()


def _fields(wanted: RedriveFilter) -> tuple[str | None, str | None, str | None]:
    return wanted.type, wanted.domain, wanted.error
