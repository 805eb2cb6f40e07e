"""Reads of tasks, lanes and counts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from organism_flows.blocks.errors import AmbiguousTask, ConfigurationError, TaskNotFound
from organism_flows.blocks.json_text import readable_json
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.explain import Why, explain
from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.blocks.queue.models.operations import (
    DEFAULT_MAX_ATTEMPTS,
    STATUSES,
    Exported,
    Outlook,
    Status,
    TaskFilter,
)
from organism_flows.blocks.queue.models.rows import Depth, TaskResult, TaskRow, TaskState, TaskSummary
from organism_flows.blocks.queue.models.streams import StoredChunks, StreamPart, StreamPlace
from organism_flows.blocks.queue.stores.situation import read_situation

ACQUIRE_TIMEOUT = 10.0
EXPORT_TIMEOUT = 300.0
"""Longest time for a page, in seconds: a filter that few tasks match reads many others before it finds one.
"""
STREAM_PARTS = 500
"""Most rows of chunks of one task in an answer; each has those of one report."""
STREAM_BYTES = 64_000
"""Bytes of chunks of one task, as they are stored, after which an answer has no more of them."""
INDEXED: frozenset[Status] = frozenset(("queued", "waiting", "retry", "running", "failed", "cancelled"))
"""Statuses that have an index."""
FEW = 20_000
"""Tasks of the statuses of a filter below which all of them are read for a page. Of more, one in 500 of ten
million has them, and a page is found soon by walking along the ids."""
EXPORT_TASKS = 1000
EXPORT_BYTES = 8_000_000
"""Bytes of params and results after which a page ends, as they are stored: Postgres compresses them."""


class Reader:
    """Reads tasks, lanes and counts. Changes nothing.

    Args:
        database: The queue's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def counts(self) -> dict[Status, int]:
        """Return the number of tasks by status. Every status is present."""
        rows = await self._database.fetch("counts")
        return dict.fromkeys(STATUSES, 0) | {row["status"]: row["tasks"] for row in rows}

    async def depths(self) -> list[Depth]:
        """Return the number and greatest age of tasks by type and status. Reads the whole table."""
        rows = await self._database.fetch("depths")
        return [Depth(**row) for row in rows]

    async def lane_figures(self) -> dict[str, float]:
        """Return the sums of what all lanes have ever counted, as defined in `blocks.queue.counters`.

        No sum ever falls. What a lost lane counted after its last heartbeat is missing.
        """
        return dict(await self._database.fetch("lane_figures"))

    async def now(self) -> datetime:
        """Return the current time of the database, which all decisions use."""
        return cast("datetime", await self._database.fetchval("now"))

    async def remaining(self) -> int:
        """Return the number of tasks that run, are due or wait for another attempt."""
        return cast("int", await self._database.fetchval("remaining"))

    async def outlook(self) -> Outlook:
        """Return which kinds of unfinished tasks there are, and when the next one is due."""
        row = await self._database.fetchrow("outlook")
        assert row is not None
        waits = [row["due_s"] for row in await self._database.fetch("next_due")]
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
        return await _get(self._database, task_id)

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
        values = {**filter.parameters(), "before": before, "limit": limit}
        if filter.status and INDEXED.issuperset(filter.status):
            size = await self._database.fetchval("status_size", statuses=filter.status, limit=FEW)
            if size < FEW:
                rows = await self._database.fetch("page_of_few", **values, few=FEW)
                return [TaskSummary.model_validate(dict(row)) for row in rows]
        rows = await self._database.fetch("page", **values)
        return [TaskSummary.model_validate(dict(row)) for row in rows]

    async def states(self, ids: Sequence[UUID]) -> dict[UUID, TaskState]:
        """Return the current state of those of these tasks that exist, by id."""
        rows = await self._database.fetch("states", ids=ids)
        return {row["id"]: _state(row) for row in rows}

    async def streams(self, places: Sequence[StreamPlace]) -> dict[StreamPlace, StreamPart]:
        """Return the next chunks after each place. Those of tasks that do not exist are left out.

        No chunk after a place, and a task that has ended: then there will be none.
        """
        rows = await self._database.fetch(
            "streams",
            ids=[place.task_id for place in places],
            claims=[place.claim for place in places],
            numbers=[place.number for place in places],
            parts=STREAM_PARTS,
            bytes=STREAM_BYTES,
        )
        found: dict[StreamPlace, StreamPart] = {}
        for row in rows:
            place = StreamPlace(row["id"], row["after_claim"], row["after_number"])
            part = found.setdefault(place, StreamPart(_state(row), row["claim"], []))
            if row["number"] is not None:
                part.stored.append(StoredChunks(row["number"], row["run_begin"], row["chunks"]))
        return found

    async def sent_event(self, task_id: UUID, name: str) -> bool:
        """Return True if a task has had an event of this name."""
        return cast("bool", await self._database.fetchval("sent_event", id=task_id, name=name))

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
            self._database.session(timeout=ACQUIRE_TIMEOUT) as session,
            # One snapshot: otherwise a task that is claimed meanwhile would have no holder.
            session.connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            task = await _get(session, task_id)
            return explain(task, await read_situation(session, task, served))

    async def lanes(self) -> list[LaneRow]:
        """Return every lane that holds a lease, or whose last lease has not been reaped yet."""
        return [LaneRow.model_validate(dict(row)) for row in await self._database.fetch("lanes")]

    async def finished(self, domain: str) -> int:
        """Return the number of tasks of a domain that are completed, failed or cancelled."""
        return cast("int", await self._database.fetchval("finished", domain=domain))

    async def results(self, domain: str) -> list[TaskResult]:
        """Return every task of a domain with its result or error. Meant for thousands, not millions."""
        rows = await self._database.fetch("results", domain=domain)
        return [TaskResult.model_validate({**row, "result": _decode(row["result"])}) for row in rows]

    async def export(
        self, filter: TaskFilter, *, page: int = EXPORT_TASKS, page_bytes: int = EXPORT_BYTES
    ) -> AsyncGenerator[list[Exported], None]:
        """Yield the tasks that match in pages, in descending order of their ids.

        No task is in two pages. A task that matches all the time is in one of them. Each page shows the table
        at the time it was read: no transaction stays open between pages.

        Args:
            filter: Which tasks.
            page: Most tasks of a page.
            page_bytes: Bytes of params and results, as stored, after which a page ends.
        """
        last: UUID | None = None
        while rows := await self._database.fetch(
            "export",
            **filter.parameters(),
            before=last,
            limit=page,
            page_bytes=page_bytes,
            timeout=EXPORT_TIMEOUT,
        ):
            yield [dict(row) for row in rows]
            last = UUID(rows[-1]["id"])

    async def counts_of(self, filter: TaskFilter) -> dict[Status, int]:
        """Return the number of tasks that match, by status. Every status is present."""
        rows = await self._database.fetch("counts_of", **filter.parameters(), timeout=EXPORT_TIMEOUT)
        return dict.fromkeys(STATUSES, 0) | {row["status"]: row["tasks"] for row in rows}


def _state(row: Any) -> TaskState:
    return TaskState(
        row["id"],
        row["status"] if row["status"] in STATUSES else "created",
        row["attempts"] or 0,
        row["cancel_requested"],
        row["lane"],
        row["fraction"],
        row["note"],
    )


async def _get(session: Session, task_id: str) -> TaskRow:
    """Return the task as `Reader.get` does."""
    low, high = _id_range(task_id)
    rows = await session.fetch("get", lowest=low, highest=high, default_max_attempts=DEFAULT_MAX_ATTEMPTS)
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
            "waits_for": _wait(rows[0]),
            "progress": dict(rows[0]) if rows[0]["reported_at"] else None,
        }
    )


def _wait(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row["wait_name"] is None:
        return None
    return {
        "event": row["wait_name"],
        "since": row["wait_since"],
        "until": row["wait_until"],
        "or_fail": row["wait_or_fail"],
    }


def _decode(text: str | None) -> Any:
    return None if text is None else readable_json(text)


def _id_range(prefix: str) -> tuple[UUID, UUID]:
    digits = prefix.replace("-", "").lower()
    if not 1 <= len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        raise ConfigurationError(
            f"{prefix!r} is not a task id or the beginning of one", "ids are 32 hexadecimal digits"
        )
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
