"""Checks of the database, the queue and running work: what slows them down, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

from organism_flows.blocks.long_work import PARAMETERS, LongWork
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.models.rows import TaskSummary
from organism_flows.blocks.queue.stores.claiming.limits import room_of

WRITE_CHECK_TIMEOUT = LIMITS_TIMEOUT = 3.0
LINES_READ = 500
"""About the most lines of waiting tasks that are read."""
ENDED_READ = 9_000
"""Most tasks that have ended of which the lines are read, from all parts of the time in question."""
HELD_READ = 10_000
"""Most running tasks of which the lines are read."""
TURNS = 10
"""Turns of others after which a line that had none is starved: by chance, one in 20,000 is."""


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """The version and state of a database, and what slows a queue down in it."""

    version: str
    database: str
    now: datetime
    max_connections: int
    connections: int
    oldest_xact_s: float | None
    """Seconds for which the oldest transaction is open. `None` means none is."""
    oldest_xact: str | None
    """The session that has it."""
    dead: int | None
    """Dead rows of the table of tasks, as far as Postgres has counted them."""
    live: int | None
    vacuumed: datetime | None
    """When the table was last vacuumed. `None` means never."""


@dataclass(frozen=True, slots=True)
class ReadyTasks:
    """The ready tasks of a type."""

    type: str
    ready: int
    """How many there are, counted up to a limit."""
    oldest_s: float
    """Seconds for which the oldest of them has been ready."""


@dataclass(frozen=True, slots=True)
class UnheldTasks:
    """Running tasks whose holder is not a lane."""

    locked_by: str | None
    """The holder that they name."""
    tasks: int
    since: datetime | None
    """When the first of them was claimed."""


@dataclass(frozen=True, slots=True)
class LineWait:
    """A line of waiting tasks: those of one type, priority, domain and key."""

    type: str
    priority: int
    domain: str
    """Empty for tasks without one."""
    key: str
    """Empty for tasks without one."""
    waits_s: float
    """Seconds for which its first task has been due."""
    starved: bool
    """True if none of it has run for long, although others of its type and priority had many turns, or other
    types of its priority ran and nothing of its own type did. A limit of its own key is no such reason."""


class Health:
    """Finds what is wrong. Changes nothing.

    Args:
        database: The queue's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def database(self) -> DatabaseState:
        """Return the version and state of the database, and what slows a queue down in it."""
        return DatabaseState(**await self._database.fetchrow("database_health"))

    async def check_writes(self) -> None:
        """Return if a task can be added now. Leaves no row behind.

        Raises:
            Exception: The error that keeps it from being added, such as `asyncpg.ReadOnlySQLTransactionError`
                or `asyncpg.DiskFullError`.
        """
        await self._database.execute("can_write", timeout=WRITE_CHECK_TIMEOUT)

    async def long_running(self, longer_than_s: float) -> tuple[int, float]:
        """Return how many handlers have run for longer, and for how many seconds the longest has."""
        row = await self._database.fetchrow("long_running", longer_than_s=longer_than_s)
        return row["tasks"], row["longest_s"]

    async def dead_letters(self, *, at_most: int) -> int:
        """Return the number of dead letters, counted up to ``at_most`` from an index alone."""
        count = await self._database.fetchval("dead_letters", limit=at_most)
        return cast("int", count)

    async def interrupted(self, *, at_most: int) -> int:
        """Return how many unfinished tasks were interrupted more than twice, counted up to ``at_most``."""
        count = await self._database.fetchval("interrupted", limit=at_most)
        return cast("int", count)

    async def most_interrupted(self, *, at_most: int) -> list[tuple[UUID, str, int]]:
        """Return id, type and interruptions of the tasks that were interrupted most, in descending order."""
        rows = await self._database.fetch("most_interrupted", limit=at_most)
        return [(row["id"], row["type"], row["interrupted"]) for row in rows]

    async def long_work(self) -> LongWork:
        """Return the facts about running work that an operator needs. Reads nothing else."""
        row = await self._database.fetchrow("long_work", **PARAMETERS)
        return LongWork.of(dict(row))

    async def unheld(self, *, limit: int) -> list[UnheldTasks]:
        """Return the running tasks that no lane holds, by the holder that they name, most tasks first."""
        rows = await self._database.fetch("unheld", limit=limit)
        return [UnheldTasks(**row) for row in rows]

    async def failures_since(self, moment: datetime, *, limit: int = 100) -> list[TaskSummary]:
        """Return the tasks that became dead letters at or after ``moment``, newest first."""
        rows = await self._database.fetch("failures_since", since=moment, limit=limit)
        return [TaskSummary.model_validate(dict(row)) for row in rows]

    async def ready(self, *, at_most: int) -> list[ReadyTasks]:
        """Return the types that have ready tasks, the one with the oldest first.

        Args:
            at_most: Most tasks of one type and priority that are counted.
        """
        rows = await self._database.fetch("queue_health", limit=at_most)
        return [ReadyTasks(row["type"], row["ready"], row["oldest_s"]) for row in rows]

    async def late(self, *, at_most: int) -> dict[str, int]:
        """Return how many waiting tasks of each type expire before they can begin, whatever their order.

        Types that have completed nothing within five minutes are left out: their rate is not known.

        Args:
            at_most: Most tasks that are read, of those that expire first.
        """
        rows = await self._database.fetch("late", limit=at_most)
        return {row["type"]: row["tasks"] for row in rows}

    async def stuck(self) -> int:
        """Return the number of running tasks whose lane has no lease any more, or never had one."""
        return cast("int", await self._database.fetchval("stuck"))

    async def line_waits(self, after_s: float) -> list[LineWait]:
        """Return the lines whose first task is due, those that have waited longest first.

        Paused and closed lines are left out. Of many lines, a part is read.

        Args:
            after_s: Seconds without a turn from which a line counts as starved.
        """
        rows = await self._database.fetch(
            "line_waits",
            pairs=LINES_READ,
            lines=LINES_READ,
            ended=ENDED_READ,
            held=HELD_READ,
            after_s=after_s,
        )
        found = []
        for row in rows:
            passed_over = row["fair"] >= TURNS or (row["of_type"] == 0 and row["of_priority"] >= TURNS)
            starved = (
                row["waits_s"] >= after_s
                and row["ran"] == 0
                and passed_over
                and not await self._is_limited(row["type"], row["key"])
            )
            found.append(
                LineWait(
                    row["type"], row["priority"], row["domain"], row["key"], max(row["waits_s"], 0.0), starved
                )
            )
        return found

    async def _is_limited(self, task_type: str, key: str) -> bool:
        """Return True if a limit allows none of these tasks, whatever else runs."""
        async with self._database.session(timeout=LIMITS_TIMEOUT) as session:
            limits, closures = await room_of(session, task_type, key, None)
        own = [limit for limit in limits if limit.room < 1 and (limit.amount == 0 or limit.key)]
        return bool(own or closures)
