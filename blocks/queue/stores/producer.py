"""Adding of tasks to the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from organism_flows.blocks.errors import AlreadySubmitted, ConfigurationError, EventRefused, TaskNotFound
from organism_flows.blocks.json_text import NotJson, to_json
from organism_flows.blocks.queue.db.bisection import one_line
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.files.columns import TASKS, Columns
from organism_flows.blocks.queue.models.operations import EventEffect, NewTask
from organism_flows.blocks.queue.stores.file_load import PART_TASKS, FileLoad, Loaded
from organism_flows.blocks.queue.stores.task_rows import COLUMNS, as_columns, paths_refused, task_row
from organism_flows.blocks.queue.traces import submitting
from organism_flows.blocks.snooze import EVENT_NAME, EVENT_NAME_RULE

SUBMIT_TIMEOUT = 60.0
LOAD_TIMEOUT = 3600.0
EVENT_LIMIT_BYTES = 256_000
"""Largest payload of an event, in bytes of JSON text."""
RACES = 5
"""Most attempts of a submission that is the victim of a deadlock."""


class Producer:
    """Adds tasks.

    Args:
        database: The queue's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def submit(self, tasks: Sequence[NewTask], *, traceparent: str | None = None) -> list[UUID]:
        """Add all tasks or none.

        Args:
            tasks: The tasks.
            traceparent: Trace context of whoever submits them. `None` means that of the current span.

        Returns:
            Their ids, in order. A task is not added if an unfinished task of its type has the same
            ``dedup_key``. Its place then holds the id of that task.

        Raises:
            AlreadySubmitted: One of the given ids exists already.
            ConfigurationError: Its params hold no key or cost where the policy of its type says.
        """
        if not tasks:
            return []
        moment = None
        if any(task.expires_in_s is not None for task in tasks):
            moment = await self._database.fetchval("now")
        with submitting(tasks, traceparent) as context:
            return await self._submit(tasks, [task_row(task, moment, traceparent=context) for task in tasks])

    async def send_event(self, task_id: UUID, name: str, payload: Any = None) -> EventEffect:
        """Send an event to a task. If the task waits for it, it continues; else the event is kept.

        Sent twice, it counts once: the first payload stays.

        Args:
            task_id: Id of the task.
            name: Name of the event.
            payload: Any JSON value, at most `EVENT_LIMIT_BYTES` long as JSON text.

        Raises:
            TaskNotFound: No task has this id.
            EventRefused: The task takes no more events, because it has ended or has had very many.
            ConfigurationError: The name or the payload cannot be stored.
        """
        if not EVENT_NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r:.150} is no name of an event", f"use {EVENT_NAME_RULE}")
        try:
            text = to_json(payload, limit_bytes=EVENT_LIMIT_BYTES)
        except NotJson as error:
            problem = str(error).replace("$", "payload", 1)
            what = f"the event {name} cannot be stored: {problem}"
            raise ConfigurationError(what, "send another payload") from None
        try:
            row = await self._database.fetchrow("send_event", id=task_id, name=name, payload=text)
        except asyncpg.ForeignKeyViolationError:
            raise TaskNotFound(
                f"no task has the id {task_id}", "list them with `organism tasks list`"
            ) from None
        except asyncpg.CheckViolationError as error:
            next_step = f"see what became of it: `organism tasks why {task_id}`"
            raise EventRefused(one_line(error), next_step) from None
        if row is None:
            return "duplicate"
        return "resumed" if row["resumed"] else "kept"

    async def _submit(self, tasks: Sequence[NewTask], rows: Sequence[tuple[Any, ...]]) -> list[UUID]:
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
        moment = await self._database.fetchval("now")

        def rows() -> Iterator[tuple[Any, ...]]:
            nonlocal added
            for task in tasks:
                added += 1
                yield task_row(task, moment)

        async with self._database.session() as session:
            try:
                with paths_refused():
                    await session.connection.copy_records_to_table(
                        "tasks", records=rows(), columns=COLUMNS, timeout=LOAD_TIMEOUT
                    )
            except asyncpg.UniqueViolationError as error:
                raise _already_there(error) from None
        return added

    async def load_files(
        self,
        paths: Sequence[Path],
        *,
        strict: bool = True,
        again: bool = False,
        columns: Columns = TASKS,
        part: int = PART_TASKS,
        on_part: Callable[[Loaded], Any] | None = None,
    ) -> Loaded:
        """Add the tasks of JSON lines, CSV and Parquet files by COPY, each line or row of a file once.

        A part, and the note of how far its file is loaded, are one transaction. A file is identified by its
        absolute path and by the content of the lines loaded from it. After a crash, and on a second call, the
        next call continues where the last one ended. Lines appended since then are loaded too.

        Args:
            paths: The files.
            strict: Load nothing if a line of any file is bad. If False, load the other lines.
            again: Load the whole of each file, whatever was loaded of it before.
            columns: How columns become fields of tasks. A file is loaded once for each type that they name.
            part: Most tasks that a transaction adds.
            on_part: Called after each part with the result so far.

        Returns:
            The result over all files.

        Raises:
            ConfigurationError: A file cannot be read, a line is bad, the lines loaded from a file have
                changed since, or another process loads the same file now. Parts loaded by then stay.
        """
        load = FileLoad(self._database, columns=columns, part=part, on_part=on_part)
        return await load.run(paths, strict=strict, again=again)

    async def _add(self, rows: Sequence[tuple[Any, ...]]) -> set[UUID]:
        """Add rows, and return the ids of those that were not there already."""
        columns = as_columns(rows)
        for race in range(RACES):
            try:
                with paths_refused():
                    added = await self._database.fetch("submit", **columns, timeout=SUBMIT_TIMEOUT)
                return {row["id"] for row in added}
            except asyncpg.UniqueViolationError as error:
                raise _already_there(error) from None
            except asyncpg.DeadlockDetectedError:
                # A producer adds the same keys in another order, in SQL of its own.
                if race == RACES - 1:
                    raise
        raise AssertionError

    async def _unfinished(self, tasks: Sequence[NewTask]) -> dict[tuple[str, str | None], UUID]:
        rows = await self._database.fetch(
            "duplicates",
            types=[task.type for task in tasks],
            dedup_keys=[task.dedup_key for task in tasks],
            timeout=SUBMIT_TIMEOUT,
        )
        return {(row["type"], row["dedup_key"]): row["id"] for row in rows}


def _already_there(error: asyncpg.UniqueViolationError) -> AlreadySubmitted:
    return AlreadySubmitted(
        f"already submitted: {error.detail}", "leave out the id or key, or read the existing task"
    )
