"""Reads for the board: how the queue stands, in bounded statements that stay fast on a table of any size."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from organism_flows.blocks.queue.db.database import Database

BOARD_TIMEOUT = 10.0
WAITING_READ = 20_000
"""About the most waiting tasks that one look reads, shared out among the lines."""
LINES_READ = 500
RUNNING_READ = 100_000
DEAD_READ = 10_000
COMPLETED_READ = 2_000
FAILURES_READ = 10_000
GROUPS_LIMIT = 100
TREND_STEPS = 24
AUDIT_READ = 10_000
"""Rows of the audit among which the newest of an action is searched."""
NO_TYPE = ""
FOLDED = {"\x01": "⟨id⟩", "\x02": "⟨path⟩", "\x03": "⟨n⟩"}
"""What replaces the marks of `board_failures.sql` in an error that is shown."""
PATTERN_LIMIT = 200
"""Longest pattern of a redrive, in characters."""


@dataclass(slots=True)
class Load:
    """Tasks of a type or domain by what they wait for."""

    name: str
    """Empty for tasks without a domain."""
    ready: int = 0
    retrying: int = 0
    scheduled: int = 0
    waiting: int = 0
    more: bool = False
    """True if more tasks wait than were counted."""
    running: int = 0
    dead: int = 0
    dead_last_hour: int = 0
    oldest_ready_s: float | None = None
    latency: Latency | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """How long the newest tasks that completed within the last hour took, in milliseconds."""

    tasks: int
    total_ms: tuple[float, float, float]
    """Median, 95th and 99th percentile of the time from creation to completion."""
    handler_ms: tuple[float, float, float] | None
    """The same of the time in the handler. `None` means that it is not recorded."""


@dataclass(slots=True)
class Depths:
    """How the queue stands, by type and by domain."""

    types: list[Load]
    domains: list[Load]
    held: dict[str, int]
    """Running tasks by lane."""
    dead: int
    dead_more: bool
    """True if there are more dead letters than were counted."""
    dead_last_hour: int
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Dead letters of one type whose errors differ only in ids, paths and numbers."""

    type: str
    error: str
    """First line of the error, with marks in place of ids, paths and numbers."""
    pattern: str
    """LIKE pattern of these errors, for a redrive."""
    tasks: int
    first_at: datetime
    last_at: datetime
    trend: list[int]
    sample: UUID | None
    """The newest of them."""
    sample_error: str | None


@dataclass(slots=True)
class Failures:
    """The newest dead letters in groups."""

    read: int
    """Number of dead letters that were read, those of other types included."""
    more: bool
    """True if there are older ones that were not read."""
    since: datetime
    """Where the trend begins."""
    until: datetime
    groups: list[FailureGroup] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A row of the audit."""

    id: UUID
    at: datetime
    action: str
    actor: str
    details: Any
    tasks: int


class Board:
    """Reads of one queue for the board, and the rows that its actions leave in the audit.

    Args:
        database: The queue's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def depths(self) -> Depths:
        """Return how the queue stands. Reads a bounded number of rows, by indexes."""
        fetch = self._database.fetch
        waiting = await fetch("board_waiting", limit=WAITING_READ, pairs=LINES_READ, timeout=BOARD_TIMEOUT)
        running = await fetch("board_running", limit=RUNNING_READ, timeout=BOARD_TIMEOUT)
        dead = await fetch("board_dead", limit=DEAD_READ, timeout=BOARD_TIMEOUT)
        latency = await fetch("board_latency", limit=COMPLETED_READ, timeout=BOARD_TIMEOUT)
        loads: dict[tuple[bool, str], Load] = {}

        def load(row: asyncpg.Record, by_domain: bool) -> Load:
            name = (row["domain"] if by_domain else row["type"]) or NO_TYPE
            return loads.setdefault((by_domain, name), Load(name))

        for row in waiting:
            one = load(row, row["by_domain"])
            one.ready, one.retrying, one.scheduled = row["ready"], row["retrying"], row["scheduled"]
            one.waiting = row["waiting"]
            one.more, one.oldest_ready_s = row["more"], _not_negative(row["oldest_s"])
        held: dict[str, int] = {}
        for row in running:
            # The bits of `grouping` are set for the columns that a row is not grouped by.
            if row["sets"] == 0b110:
                held[row["lane"]] = row["running"]
            else:
                load(row, row["sets"] == 0b101).running = row["running"]
        for row in dead:
            one = load(row, row["by_domain"])
            one.dead, one.dead_last_hour = row["dead"], row["last_hour"]
        overall = None
        for row in latency:
            if row["all_types"]:
                overall = _latency(row)
            else:
                load(row, False).latency = _latency(row)
        types = [one for (by_domain, _), one in loads.items() if not by_domain]
        counted = sum(one.dead for one in types)
        return Depths(
            types=sorted(types, key=lambda one: one.name),
            domains=sorted((one for (by, _), one in loads.items() if by), key=lambda one: one.name),
            held=held,
            dead=counted,
            dead_more=counted >= DEAD_READ,
            dead_last_hour=sum(one.dead_last_hour for one in types),
            latency=overall,
        )

    async def failures(
        self, *, type: str | None = None, domain: str | None = None, since: datetime | None = None
    ) -> Failures:
        """Return the newest dead letters, grouped by type and error.

        Args:
            type: Only those of this type.
            domain: Only those of this domain.
            since: Only those that finished then or later.
        """
        rows = await self._database.fetch(
            "board_failures",
            type=type,
            domain=domain,
            since=since,
            limit=FAILURES_READ,
            groups=GROUPS_LIMIT,
            steps=TREND_STEPS,
            timeout=BOARD_TIMEOUT,
        )
        first = rows[0]
        return Failures(
            read=first["read"],
            more=first["read"] >= FAILURES_READ,
            since=first["began"] or first["now"],
            until=first["now"],
            groups=[_group(row) for row in rows if row["tasks"] is not None],
        )

    async def audit(
        self, *, action: str | None = None, before: UUID | None = None, limit: int = 50
    ) -> list[AuditEntry]:
        """Return a page of the audit, the newest rows first."""
        rows = await self._database.fetch(
            "board_audit", action=action, before=before, limit=limit, timeout=BOARD_TIMEOUT
        )
        return [AuditEntry(**{**row, "details": _details(row["details"])}) for row in rows]

    async def newest_audit(self, actions: Collection[str]) -> list[dict[str, Any]]:
        """Return the newest row of each of these actions, and of each kind and name in their details."""
        rows = await self._database.fetch(
            "board_newest_audit", actions=list(actions), limit=AUDIT_READ, timeout=BOARD_TIMEOUT
        )
        return [{**row, "details": _details(row["details"])} for row in rows]

    async def record(self, action: str, actor: str, details: dict[str, Any], *, tasks: int = 0) -> None:
        """Add a row to the audit: who did what, to how many tasks."""
        await self._database.execute(
            "record_audit",
            action=action,
            actor=actor,
            details=orjson.dumps(details).decode(),
            tasks=tasks,
            timeout=BOARD_TIMEOUT,
        )


def like_pattern(said: str) -> str:
    """Return a LIKE pattern for errors that begin with ``said``, which has marks of `FOLDED`."""
    pattern = ""
    for character in said:
        if character in FOLDED:
            piece = "" if pattern.endswith("%") and not pattern.endswith("\\%") else "%"
        else:
            piece = f"\\{character}" if character in "\\%_" else character
        if len(pattern) + len(piece) >= PATTERN_LIMIT:
            break
        pattern += piece
    return pattern if pattern.endswith("%") and not pattern.endswith("\\%") else f"{pattern}%"


def _group(row: asyncpg.Record) -> FailureGroup:
    said: str = row["said"]
    shown = said
    for mark, word in FOLDED.items():
        shown = shown.replace(mark, word)
    steps: dict[str, int] = orjson.loads(row["steps"])
    return FailureGroup(
        type=row["type"] or NO_TYPE,
        error=shown,
        pattern=like_pattern(said),
        tasks=row["tasks"],
        first_at=row["first_at"],
        last_at=row["last_at"],
        trend=[steps.get(str(step), 0) for step in range(1, TREND_STEPS + 1)],
        sample=row["sample"],
        sample_error=row["error"],
    )


def _latency(row: asyncpg.Record) -> Latency:
    total, handler = row["total_ms"], row["handler_ms"]
    return Latency(
        row["tasks"],
        tuple(max(0.0, each) for each in total),
        tuple(handler) if handler and handler[0] is not None else None,
    )


def _not_negative(seconds: float | None) -> float | None:
    return None if seconds is None else max(0.0, seconds)


def _details(text: str | None) -> Any:
    try:
        return orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        # It was cut off, because it is long.
        return text
