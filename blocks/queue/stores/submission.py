"""Adding tasks to the queue, for producers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from organism_flows.blocks.errors import AlreadySubmitted
from organism_flows.blocks.json_text import to_json
from organism_flows.blocks.queue.db.statements import statement
from organism_flows.blocks.queue.fields import PARAMS_LIMIT_BYTES
from organism_flows.blocks.queue.models import NewTask
from organism_flows.blocks.queue.stores.reads import Inspection

SUBMIT_TIMEOUT = 60.0
LOAD_TIMEOUT = 3600.0
RACES = 5
"""Most attempts of a submission that is the victim of a deadlock."""
LOADED_COLUMNS = (
    "id",
    "type",
    "params",
    "description",
    "domain",
    "drift_score",
    "priority",
    "run_after",
    "max_attempts",
    "timeout_s",
    "dedup_key",
    "status",
    "key",
)


class Submission(Inspection):
    """Operations of `blocks.queue.Queue` that add tasks."""

    async def submit(self, tasks: Sequence[NewTask]) -> list[UUID]:
        """Add all tasks or none.

        Returns:
            Their ids, in order. A task is not added if an unfinished task of its type has the same
            ``dedup_key``. Its place then holds the id of that task.

        Raises:
            AlreadySubmitted: One of the given ids exists already.
        """
        if not tasks:
            return []
        rows = [task_row(task) for task in tasks]
        ids: list[UUID] = [row[0] for row in rows]
        left = list(range(len(ids)))
        while left:
            added = await self._add([rows[p] for p in left])
            kept_out = [p for p in left if ids[p] not in added]
            older = await self._unfinished([tasks[p] for p in kept_out]) if kept_out else {}
            left = []
            for p in kept_out:
                if known_as := older.get((tasks[p].type, tasks[p].dedup_key)):
                    ids[p] = known_as
                else:  # The older task has finished since then. Try again.
                    left.append(p)
        return ids

    async def load(self, tasks: Iterable[NewTask]) -> int:
        """Add many tasks by COPY, all or none. About twice as fast as `submit`, which returns their ids.

        Returns:
            How many were added.

        Raises:
            AlreadySubmitted: An id, or the ``dedup_key`` of an unfinished task, exists already.
        """
        added = 0
        moment = await self.now()

        def rows() -> Iterator[tuple[Any, ...]]:
            nonlocal added
            for task in tasks:
                added += 1
                yield task_row(task, moment)

        async with self.pool.acquire() as connection:
            try:
                await connection.copy_records_to_table(
                    "tasks", records=rows(), columns=LOADED_COLUMNS, timeout=LOAD_TIMEOUT
                )
            except asyncpg.UniqueViolationError as error:
                raise _already_there(error) from None
        return added

    async def _add(self, rows: Sequence[tuple[Any, ...]]) -> set[UUID]:
        """Add rows, and return the ids of those that were not there already."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        for race in range(RACES):
            try:
                added = await self.pool.fetch(statement("submit"), *columns, timeout=SUBMIT_TIMEOUT)
                return {row["id"] for row in added}
            except asyncpg.UniqueViolationError as error:
                raise _already_there(error) from None
            except asyncpg.DeadlockDetectedError:
                # A producer adds the same keys in another order, in SQL of its own.
                if race == RACES - 1:
                    raise
        raise AssertionError

    async def _unfinished(self, tasks: Sequence[NewTask]) -> dict[tuple[str, str | None], UUID]:
        rows = await self.pool.fetch(
            statement("duplicates"),
            [task.type for task in tasks],
            [task.dedup_key for task in tasks],
            timeout=SUBMIT_TIMEOUT,
        )
        return {(row["type"], row["dedup_key"]): row["id"] for row in rows}


def task_row(task: NewTask, moment: datetime | None = None) -> tuple[Any, ...]:
    """Return the values of a task for `LOADED_COLUMNS`.

    Args:
        task: Task to add.
        moment: When it is due, unless it says. `None` leaves that empty.
    """
    return (
        # Ids that grow with time: a claim or settlement of 500 then touches neighbouring pages.
        task.id or uuid7(),
        task.type,
        to_json(task.params, limit_bytes=PARAMS_LIMIT_BYTES),
        task.description,
        task.domain,
        task.drift_score,
        task.priority,
        task.run_after or moment,
        task.max_attempts,
        task.timeout_s,
        task.dedup_key,
        "queued" if task.run_immediately else "created",
        task.key,
    )


def _already_there(error: asyncpg.UniqueViolationError) -> AlreadySubmitted:
    return AlreadySubmitted(
        f"already submitted: {error.detail}", "leave out the id or key, or look at the existing task"
    )
