"""Steering the queue: cancel, pause and resume, and how the tasks of a type are retried."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast
from uuid import UUID

import asyncpg

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.db.bisection import in_halves, logger, one_line
from organism_flows.blocks.queue.db.statements import statement
from organism_flows.blocks.queue.models import (
    Cancelled,
    Pause,
    PausedKind,
    Retried,
    Status,
    TaskFilter,
    TypePolicy,
)
from organism_flows.blocks.queue.stores.loading import Loading
from organism_flows.blocks.queue.stores.reads import READ_TIMEOUT

CANCEL_TIMEOUT = 10.0
RACES = 5
"""A statement meets a submit with a key of its own tasks this often at most before it is an error."""
CANCELLED_AT_ONCE = 1000
"""Tasks one statement cancels, so that none of them is locked for long."""


class Control(Loading):
    """The operators' half of `blocks.queue.Queue`."""

    async def cancel(self, ids: Sequence[UUID]) -> Cancelled:
        """Cancel tasks: at once those that wait; those that run as soon as their lane has told the handler.

        A running task whose handler ends first keeps what came of it, if it completed.
        """
        rows = await self._steer("cancel", ids)
        cancelled = [UUID(row["id"]) for row in rows if row["status"] == "cancelled"]
        requested = [UUID(row["id"]) for row in rows if row["status"] == "running"]
        touched = {*cancelled, *requested}
        return Cancelled(cancelled, requested, [task_id for task_id in ids if task_id not in touched])

    async def cancellable(self, filter: TaskFilter) -> dict[Status, int]:
        """How many tasks `cancel_all` would cancel, by status."""
        rows = await self.pool.fetch(statement("cancellable"), *filter.columns(), timeout=CANCEL_TIMEOUT)
        return {row["status"]: row["tasks"] for row in rows}

    async def cancel_all(self, filter: TaskFilter) -> AsyncIterator[Cancelled]:
        """Cancel every unfinished task that fits, some at a time, from the newest to the oldest.

        What has been yielded is done; what is submitted meanwhile is left alone.
        """
        before: UUID | None = None
        while True:
            rows = await self.pool.fetch(
                statement("to_cancel"), *filter.columns(), before, CANCELLED_AT_ONCE, timeout=CANCEL_TIMEOUT
            )
            if not rows:
                return
            ids = [row["id"] for row in rows]
            yield await self.cancel(ids)
            before = ids[-1]

    async def start(self, ids: Sequence[UUID]) -> list[UUID]:
        """Let tasks run that are only ``created``.

        Returns:
            Ids of those that were, and are queued now.
        """
        rows = await self._steer("start", ids)
        return [row["id"] for row in rows]

    async def retry(self, ids: Sequence[UUID]) -> Retried:
        """Queue tasks again that failed or were cancelled, with fresh attempts; their history stays."""
        rows = await self._steer("retry", ids)
        retried = [row["id"] for row in rows if row["retried"]]
        duplicates = [row["id"] for row in rows if not row["retried"]]
        touched = {*retried, *duplicates}
        return Retried(retried, [task_id for task_id in ids if task_id not in touched], duplicates)

    async def _steer(self, name: str, ids: Sequence[UUID]) -> list[Any]:
        """Run a statement over tasks; one that Postgres refuses stays as it is, unless it is the only one."""

        async def write(some: Sequence[UUID]) -> list[Any]:
            for race in range(RACES):
                try:
                    return await self.pool.fetch(statement(name), some, timeout=CANCEL_TIMEOUT)
                except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError):
                    # A task with the key of one of these was added at the same moment; now it can be seen.
                    if race == RACES - 1:
                        raise
            raise AssertionError

        async def refused(task: UUID, why: Exception) -> None:
            if len(ids) == 1:
                raise ConfigurationError(
                    f"Postgres refuses to {name} task {task}: {one_line(why)}",
                    "correct the row, or the constraint or trigger that the error names",
                ) from None
            logger.error("task %s: Postgres refuses to %s it: %s", task, name, one_line(why))

        parts = await in_halves(list(ids), write, refused)
        return [row for part in parts for row in part]

    async def pause(self, kind: PausedKind, name: str, *, reason: str | None = None) -> None:
        """Claim no further task of a type or domain, from now on; what runs goes on."""
        await self.pool.execute(statement("pause"), kind, name, reason, timeout=READ_TIMEOUT)

    async def resume(self, kind: PausedKind, name: str) -> bool:
        """Claim its tasks again, from now on; whether it was paused."""
        found = await self.pool.fetchval(statement("resume"), kind, name, timeout=READ_TIMEOUT)
        return cast("str | None", found) is not None

    async def pauses(self) -> list[Pause]:
        """What is paused."""
        rows = await self.pool.fetch(statement("pauses"), timeout=READ_TIMEOUT)
        return [Pause.model_validate(dict(row)) for row in rows]

    async def set_policy(self, policy: TypePolicy) -> None:
        """Set how tasks of a type are retried and timed out; in effect at once, for waiting tasks too."""
        await self.pool.execute(
            statement("set_policy"),
            policy.type,
            policy.max_attempts,
            policy.timeout_s,
            policy.backoff_base_s,
            policy.backoff_cap_s,
            policy.max_interruptions,
            timeout=READ_TIMEOUT,
        )

    async def policies(self) -> list[TypePolicy]:
        """The policies of all types that have one."""
        rows = await self.pool.fetch(statement("policies"), timeout=READ_TIMEOUT)
        # Not validated: the table may hold what we would not put there.
        return [TypePolicy.model_construct(**row) for row in rows]
