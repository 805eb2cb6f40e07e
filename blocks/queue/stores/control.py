"""Operations for operators: cancel, start, retry, pause and resume tasks, and set the policies of types."""

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
"""Most attempts of a statement that meets a submission with the key of one of its tasks."""
CANCELLED_AT_ONCE = 1000
"""Most tasks that one statement cancels, so that none of them is locked for long."""


class Control(Loading):
    """Operations of `blocks.queue.Queue` for operators."""

    async def cancel(self, ids: Sequence[UUID]) -> Cancelled:
        """Cancel tasks: at once if they wait, else as soon as their lane has stopped the handler.

        A running task whose handler completes before that stays completed.
        """
        rows = await self._steer("cancel", ids)
        cancelled = [UUID(row["id"]) for row in rows if row["status"] == "cancelled"]
        requested = [UUID(row["id"]) for row in rows if row["status"] == "running"]
        touched = {*cancelled, *requested}
        return Cancelled(cancelled, requested, [task_id for task_id in ids if task_id not in touched])

    async def cancellable(self, filter: TaskFilter) -> dict[Status, int]:
        """Return how many tasks `cancel_all` would cancel, by status."""
        rows = await self.pool.fetch(statement("cancellable"), *filter.columns(), timeout=CANCEL_TIMEOUT)
        return {row["status"]: row["tasks"] for row in rows}

    async def cancel_all(self, filter: TaskFilter) -> AsyncIterator[Cancelled]:
        """Cancel every unfinished task that matches, page by page, from the newest to the oldest.

        Tasks that were submitted after the call began are not touched.

        Yields:
            The tasks of a page, which are cancelled by then.
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
        """Queue tasks that are only ``created``.

        Returns:
            Ids of the tasks that were queued.
        """
        rows = await self._steer("start", ids)
        return [row["id"] for row in rows]

    async def retry(self, ids: Sequence[UUID]) -> Retried:
        """Queue failed or cancelled tasks again, with fresh attempts. Their history stays."""
        rows = await self._steer("retry", ids)
        retried = [row["id"] for row in rows if row["retried"]]
        duplicates = [row["id"] for row in rows if not row["retried"]]
        touched = {*retried, *duplicates}
        return Retried(retried, [task_id for task_id in ids if task_id not in touched], duplicates)

    async def _steer(self, name: str, ids: Sequence[UUID]) -> list[Any]:
        """Run a statement over tasks. One that Postgres refuses is logged and stays as it is.

        Raises:
            ConfigurationError: Postgres refuses the only task.
        """

        async def write(some: Sequence[UUID]) -> list[Any]:
            for race in range(RACES):
                try:
                    return await self.pool.fetch(statement(name), some, timeout=CANCEL_TIMEOUT)
                except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError):
                    # A task with the key of one of these was added at the same moment. Now it is visible.
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
        """Stop claiming tasks of a type or domain. Tasks that run go on."""
        await self.pool.execute(statement("pause"), kind, name, reason, timeout=READ_TIMEOUT)

    async def resume(self, kind: PausedKind, name: str) -> bool:
        """Claim tasks of a type or domain again.

        Returns:
            True if it was paused.
        """
        found = await self.pool.fetchval(statement("resume"), kind, name, timeout=READ_TIMEOUT)
        return cast("str | None", found) is not None

    async def pauses(self) -> list[Pause]:
        """Return everything that is paused."""
        rows = await self.pool.fetch(statement("pauses"), timeout=READ_TIMEOUT)
        return [Pause.model_validate(dict(row)) for row in rows]

    async def set_policy(self, policy: TypePolicy) -> None:
        """Set how tasks of a type are retried and timed out. Takes effect at once, also for waiting tasks."""
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
        """Return the policies of all types that have one."""
        rows = await self.pool.fetch(statement("policies"), timeout=READ_TIMEOUT)
        # Not validated: the table may hold values that this version would not write.
        return [TypePolicy.model_construct(**row) for row in rows]
