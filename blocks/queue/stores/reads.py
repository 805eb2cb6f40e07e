"""Reads of the queue: every operation that changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import asyncpg

from organism_flows.blocks.errors import AmbiguousTask, ConfigurationError, TaskNotFound
from organism_flows.blocks.json_text import readable_json
from organism_flows.blocks.long_work import ARGUMENTS, LongWork
from organism_flows.blocks.queue.db.statements import statement
from organism_flows.blocks.queue.explain import QueueSituation, RunningOfType, Why, explain
from organism_flows.blocks.queue.lane_models import LaneRow, UnheldTasks
from organism_flows.blocks.queue.models import (
    STATUSES,
    Depth,
    Outlook,
    Pause,
    Status,
    TaskFilter,
    TaskResult,
    TaskRow,
    TaskState,
    TaskSummary,
)

READ_TIMEOUT = 10.0
WRITE_CHECK_TIMEOUT = 3.0
DEFAULT_MAX_ATTEMPTS = 5
"""Most attempts of a task if neither it nor the policy of its type says."""


class Inspection:
    """Operations of `blocks.queue.Queue` that read."""

    def __init__(self) -> None:
        self._pool: asyncpg.Pool[Any] | None = None

    @property
    def pool(self) -> asyncpg.Pool[Any]:
        """Return the connections. asyncpg replaces broken ones when they are next needed."""
        if self._pool is None:
            raise RuntimeError("the queue is not open: use `async with Queue(dsn) as queue`")
        return self._pool

    async def counts(self) -> dict[Status, int]:
        """Return the number of tasks by status. Every status is present."""
        rows = await self.pool.fetch(statement("counts"), timeout=READ_TIMEOUT)
        return dict.fromkeys(STATUSES, 0) | {row["status"]: row["tasks"] for row in rows}

    async def depths(self) -> list[Depth]:
        """Return the number and greatest age of tasks by type and status. Reads the whole table."""
        rows = await self.pool.fetch(statement("depths"), timeout=READ_TIMEOUT)
        return [Depth(**row) for row in rows]

    async def lane_figures(self) -> dict[str, float]:
        """Return the sums of what all lanes have ever counted, as defined in `blocks.queue.counters`.

        No sum ever falls. What a lost lane counted after its last heartbeat is missing.
        """
        return dict(await self.pool.fetch(statement("lane_figures"), timeout=READ_TIMEOUT))

    async def check_writes(self) -> None:
        """Return if a task can be added now. Leaves no row behind.

        Raises:
            Exception: The error that keeps it from being added, such as `asyncpg.ReadOnlySQLTransactionError`
                or `asyncpg.DiskFullError`.
        """
        await self.pool.execute(statement("can_write"), timeout=WRITE_CHECK_TIMEOUT)

    async def now(self) -> datetime:
        """Return the current time of the database, which all decisions use."""
        return cast("datetime", await self.pool.fetchval(statement("now"), timeout=READ_TIMEOUT))

    async def remaining(self) -> int:
        """Return the number of tasks that run, are due or wait for another attempt."""
        return cast("int", await self.pool.fetchval(statement("remaining"), timeout=READ_TIMEOUT))

    async def long_running(self, longer_than_s: float) -> tuple[int, float]:
        """Return how many handlers have run for longer, and for how many seconds the longest has."""
        row = await self.pool.fetchrow(statement("long_running"), longer_than_s, timeout=READ_TIMEOUT)
        assert row is not None
        return row["tasks"], row["longest_s"]

    async def dead_letters(self, *, at_most: int) -> int:
        """Return the number of dead letters, counted up to ``at_most`` from an index alone."""
        count = await self.pool.fetchval(statement("dead_letters"), at_most, timeout=READ_TIMEOUT)
        return cast("int", count)

    async def interrupted(self, *, at_most: int) -> int:
        """Return how many unfinished tasks were interrupted more than twice, counted up to ``at_most``."""
        count = await self.pool.fetchval(statement("interrupted"), at_most, timeout=READ_TIMEOUT)
        return cast("int", count)

    async def most_interrupted(self, *, at_most: int) -> list[tuple[UUID, str, int]]:
        """Return id, type and interruptions of the tasks that were interrupted most, in descending order."""
        rows = await self.pool.fetch(statement("most_interrupted"), at_most, timeout=READ_TIMEOUT)
        return [(row["id"], row["type"], row["interrupted"]) for row in rows]

    async def long_work(self) -> LongWork:
        """Return the facts about running work that an operator needs. Reads nothing else."""
        row = await self.pool.fetchrow(statement("long_work"), *ARGUMENTS, timeout=READ_TIMEOUT)
        assert row is not None
        return LongWork.of(dict(row))

    async def unheld(self, *, limit: int) -> list[UnheldTasks]:
        """Return the running tasks that no lane holds, by the holder that they name, most tasks first."""
        rows = await self.pool.fetch(statement("unheld"), limit, timeout=READ_TIMEOUT)
        return [UnheldTasks(**row) for row in rows]

    async def failures_since(self, moment: datetime, *, limit: int = 100) -> list[TaskSummary]:
        """Return the tasks that became dead letters at or after ``moment``, newest first."""
        rows = await self.pool.fetch(statement("failures_since"), moment, limit, timeout=READ_TIMEOUT)
        return [TaskSummary.model_validate(dict(row)) for row in rows]

    async def outlook(self) -> Outlook:
        """Return which kinds of unfinished tasks there are, and when the next one is due."""
        row = await self.pool.fetchrow(statement("outlook"), timeout=READ_TIMEOUT)
        assert row is not None
        waits = [row["due_s"] for row in await self.pool.fetch(statement("next_due"), timeout=READ_TIMEOUT)]
        return Outlook(
            running=row["running"],
            ready=any(due_s <= 0 for due_s in waits),
            backing_off=row["backing_off"],
            next_due_s=min(waits, default=None),
        )

    async def get(self, task_id: str) -> TaskRow:
        """Return the task with this id or unique id prefix, with its history.

        Raises:
            TaskNotFound: No task has it.
            AmbiguousTask: Several tasks have it.
            ConfigurationError: It is not an id.
        """
        return await self._get(self.pool, task_id)

    async def _get(self, session: Any, task_id: str) -> TaskRow:
        """Return the task as `get` does, read by the pool or by one of its connections."""
        low, high = _id_range(task_id)
        rows = await session.fetch(statement("get"), low, high, DEFAULT_MAX_ATTEMPTS, timeout=READ_TIMEOUT)
        if not rows:
            raise TaskNotFound(f"no task has the id {task_id}", "list them with `organism tasks list`")
        if len(rows) > 1:
            candidates = tuple(str(row["id"]) for row in rows[:5])
            raise AmbiguousTask(
                f"the id prefix {task_id} fits {', '.join(candidates)}{' and more' if len(rows) > 5 else ''}",
                "give more of the id",
                candidates,
            )
        return TaskRow.model_validate(
            {
                **rows[0],
                "max_attempts": rows[0]["attempts_allowed"],
                "params": _decode(rows[0]["params"]),
                "result": _decode(rows[0]["result"]),
                "history": _decode(rows[0]["attempts_made"]) or [],
            }
        )

    async def list_tasks(
        self,
        *,
        status: Status | None = None,
        type: str | None = None,
        domain: str | None = None,
        limit: int = 50,
    ) -> list[TaskSummary]:
        """Return the newest tasks that match every given filter."""
        rows = await self.pool.fetch(
            statement("list_tasks"), status, type, domain, limit, timeout=READ_TIMEOUT
        )
        return [TaskSummary.model_validate(dict(row)) for row in rows]

    async def page(
        self, filter: TaskFilter, *, before: UUID | None = None, limit: int = 50
    ) -> list[TaskSummary]:
        """Return the tasks that match, in descending order of their ids.

        That is newest first, as far as ids grow with time.

        Whatever is added or settled meanwhile, no task is in two pages, and a task that matches all the time
        is in one.

        Args:
            filter: Which tasks.
            before: Id of the last task of the previous page. `None` means the first page.
            limit: Most tasks of the page.
        """
        rows = await self.pool.fetch(
            statement("page"), *filter.columns(), before, limit, timeout=READ_TIMEOUT
        )
        return [TaskSummary.model_validate(dict(row)) for row in rows]

    async def states(self, ids: Sequence[UUID]) -> dict[UUID, TaskState]:
        """Return the current state of those of these tasks that exist, by id."""
        rows = await self.pool.fetch(statement("states"), ids, timeout=READ_TIMEOUT)
        return {
            row["id"]: TaskState(
                row["id"],
                row["status"] if row["status"] in STATUSES else "created",
                row["attempts"] or 0,
                row["cancel_requested"],
                row["lane"],
            )
            for row in rows
        }

    async def why(self, task_id: str, *, served: Collection[str] | None = None) -> Why:
        """Return the reason why a task waits, or how it ended.

        Args:
            task_id: Its id, or a unique prefix of it.
            served: Types that have an organ. `None` means not known: a missing organ is then not reported.

        Raises:
            TaskNotFound: No task has this id.
            AmbiguousTask: Several tasks have it.
            ConfigurationError: It is not an id.
        """
        async with (
            self.pool.acquire(timeout=READ_TIMEOUT) as session,
            # One snapshot: otherwise a task that is claimed meanwhile would have no holder.
            session.transaction(isolation="repeatable_read", readonly=True),
        ):
            task = await self._get(session, task_id)
            ahead = of_type = None
            if task.status in ("queued", "retry"):
                line = (task.type, task.priority, task.domain or "", task.key or "")
                ahead = await session.fetchval(
                    statement("ahead"), *line, task.run_after, task.id, timeout=READ_TIMEOUT
                )
            if task.status in ("queued", "retry", "running"):
                row = await session.fetchrow(statement("of_type"), task.type, task.id, timeout=READ_TIMEOUT)
                assert row is not None
                of_type = RunningOfType(**row)
            now = await session.fetchval(statement("now"), timeout=READ_TIMEOUT)
            pauses = await session.fetch(statement("pauses"), timeout=READ_TIMEOUT)
            lanes = await session.fetch(statement("lanes"), timeout=READ_TIMEOUT)
        around = QueueSituation(
            now, [Pause(**row) for row in pauses], [LaneRow(**row) for row in lanes], ahead, served, of_type
        )
        return explain(task, around)

    async def lanes(self) -> list[LaneRow]:
        """Return every lane that holds a lease, or whose last lease has not been reaped yet."""
        return [
            LaneRow.model_validate(dict(row))
            for row in await self.pool.fetch(statement("lanes"), timeout=READ_TIMEOUT)
        ]

    async def finished(self, domain: str) -> int:
        """Return the number of tasks of a domain that are completed, failed or cancelled."""
        return cast("int", await self.pool.fetchval(statement("finished"), domain, timeout=READ_TIMEOUT))

    async def results(self, domain: str) -> list[TaskResult]:
        """Return every task of a domain with its result or error. Meant for thousands, not millions."""
        rows = await self.pool.fetch(statement("results"), domain, timeout=READ_TIMEOUT)
        return [TaskResult.model_validate({**row, "result": _decode(row["result"])}) for row in rows]


def _decode(text: str | None) -> Any:
    return None if text is None else readable_json(text)


def _id_range(prefix: str) -> tuple[UUID, UUID]:
    digits = prefix.replace("-", "").lower()
    if not 1 <= len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        raise ConfigurationError(
            f"{prefix!r} is not a task id or the beginning of one", "ids are 32 hexadecimal digits"
        )
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
