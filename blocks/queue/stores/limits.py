"""Limits on claims: how many tasks may run at once, or begin within a period.

A claim counts under a lock what the limits of its tasks allow, and takes no more. What runs is counted from
the tasks that lanes hold. So nothing can leak: whatever dies, its tasks count until they are taken back. A
claim of tasks without limits does none of this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from math import floor
from typing import Any, TypeAlias

import orjson

from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.limit_models import Closure, Limit, LimitRoom
from organism_flows.blocks.queue.stores.line_shares import ClaimLine, LineId

LIMIT_TIMEOUT = 10.0
NEVER = float("inf")
WHOLE = 1e-6
"""What a level may lack of a whole task: it is a sum of fractions."""
CLOSURES_SHOWN = 1000
"""Most closures that are read."""
Bucket: TypeAlias = tuple[str, str]
"""Name of a limit and key, empty where the limit is not by key: what one amount is for."""
Wanted: TypeAlias = "list[tuple[ClaimLine, int]]"
"""Lines to claim from, each with the most tasks to take."""


class Limits:
    """The limits of a queue, as one lane knows them.

    Args:
        database: The queue's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._limits: list[Limit] = []
        self.reached = False
        """True if a limit kept the last claim from taking more."""
        self.next_s = NEVER
        """Seconds from the last claim until a rate allows more."""

    async def read(self) -> None:
        """Read which limits there are."""
        self._limits = await read_limits(self._database)

    @asynccontextmanager
    async def claim(self, wanted: Wanted) -> AsyncIterator[LimitedClaim]:
        """Yield what of ``wanted`` may be claimed. What is taken counts once the block has ended."""
        self.reached, self.next_s = False, NEVER
        buckets = (
            {line.id: _buckets(self._limits, line.type, line.key) for line, _ in wanted}
            if self._limits
            else {}
        )
        if not any(buckets.values()):
            yield LimitedClaim(self._database, wanted, {})
            return
        async with self._database.transaction(timeout=LIMIT_TIMEOUT) as session:
            claim = LimitedClaim(session, wanted, buckets)
            await claim.count()
            yield claim
            await claim.spend()
        self.reached, self.next_s = claim.reached, claim.next_s


class LimitedClaim:
    """One claim, as far as limits allow it.

    Args:
        session: What it runs on.
        wanted: Lines to claim from, each with the most tasks to take.
        buckets: What a task of each line counts against.
    """

    def __init__(self, session: Session, wanted: Wanted, buckets: dict[LineId, list[Bucket]]) -> None:
        self.session = session
        self.wanted = wanted
        self.reached = False
        self.next_s = NEVER
        self._buckets = buckets
        self._rates: dict[Bucket, float] = {}
        """Level of each rate."""
        self._now: datetime | None = None
        self._reduced: dict[LineId, int] = {}
        """Most tasks of each line of which a limit allows fewer than were wanted."""
        self._spent: Counter[Bucket] = Counter()

    async def count(self) -> None:
        """Reduce what is wanted to what the limits allow now."""
        asked = sorted({bucket for buckets in self._buckets.values() for bucket in buckets})
        names = sorted({name for name, _ in asked})
        await self.session.execute("limit_lock", names=names, timeout=LIMIT_TIMEOUT)
        rooms: dict[Bucket, float] = {}
        next_s: dict[Bucket, float] = {}
        for left in await _rooms(self.session, asked):
            bucket = (left.name, left.key)
            rooms[bucket] = left.room
            if left.kind == "rate":
                self._rates[bucket], self._now = left.level, left.now
            if left.next_s is not None:
                next_s[bucket] = left.next_s
        allowed: dict[LineId, int] = {}
        # Lines that are expected to be empty come last: otherwise they would keep the room of the others.
        for line, quota in sorted(self.wanted, key=lambda one: one[0].idle):
            # One that is gone by now allows everything.
            buckets = [bucket for bucket in self._buckets[line.id] if bucket in rooms]
            most = min([quota, *(floor(rooms[bucket] + WHOLE) for bucket in buckets)])
            if most < quota:
                self._reduced[line.id] = most
            if most > 0:
                allowed[line.id] = most
                for bucket in buckets:
                    rooms[bucket] -= most
            else:
                self.reached = line.exhausted = line.limited = True
                full = [next_s.get(b, NEVER) for b in buckets if floor(rooms[b] + WHOLE) < 1]
                self.next_s = min(self.next_s, max(full))
        self.wanted = [(line, allowed[line.id]) for line, _ in self.wanted if line.id in allowed]

    def take(self, lines: Iterable[LineId]) -> None:
        """Record the line of each task that was claimed."""
        if not self._buckets:
            return
        taken = Counter(lines)
        self.reached |= any(taken[line] >= most for line, most in self._reduced.items())
        for line, tasks in taken.items():
            for bucket in self._buckets[line]:
                self._spent[bucket] += tasks

    async def spend(self) -> None:
        """Write what is left of rates."""
        spent = sorted(bucket for bucket in self._spent if bucket in self._rates)
        if spent:
            await self.session.execute(
                "limit_spend",
                names=[name for name, _ in spent],
                keys=[key for _, key in spent],
                levels=[self._rates[bucket] - self._spent[bucket] for bucket in spent],
                now=self._now,
                timeout=LIMIT_TIMEOUT,
            )


async def room_of(session: Session, task_type: str, key: str) -> tuple[list[LimitRoom], list[Closure]]:
    """Return what each limit of a task allows it now, and what is closed that it needs."""
    buckets = _buckets(await read_limits(session), task_type, key)
    return await _rooms(session, buckets), await read_closures(session, task_type, key, buckets)


async def _rooms(session: Session, buckets: list[Bucket]) -> list[LimitRoom]:
    """Return what is left for each of ``buckets``. A limit that is gone by now is left out."""
    if not buckets:
        return []
    rows = await session.fetch(
        "limit_room",
        names=[name for name, _ in buckets],
        keys=[key for _, key in buckets],
        timeout=LIMIT_TIMEOUT,
    )
    return [
        LimitRoom(
            name=row["name"],
            key=row["key"],
            kind=row["kind"],
            amount=row["amount"],
            room=row["room"],
            level=row["level"],
            next_s=_next_s(row),
            opens_s=row["opens_s"],
            now=row["now"],
        )
        for row in rows
    ]


def _next_s(row: Any) -> float | None:
    waits = [row["opens_s"]] if row["opens_s"] is not None else []
    if row["per_s"] and row["amount"]:
        waits.append(max(1 - row["level"], 0) / row["per_s"])
    return max(waits, default=None)


def _buckets(limits: Iterable[Limit], task_type: str, key: str) -> list[Bucket]:
    """Return what a task of this type and key counts against."""
    return [
        (limit.name, key if limit.by_key else "")
        for limit in limits
        if not limit.types or task_type in limit.types
    ]


async def read_limits(session: Session) -> list[Limit]:
    """Return all limits, by name."""
    rows = await session.fetch("limits", timeout=LIMIT_TIMEOUT)
    return [Limit(**{**row, "exceptions": orjson.loads(row["exceptions"])}) for row in rows]


async def read_closures(
    session: Session, task_type: str | None = None, key: str = "", buckets: Iterable[Bucket] = ()
) -> list[Closure]:
    """Return what is closed now, last to open first: all of it, or what one type and key wait for."""
    named = list(buckets)
    rows = await session.fetch(
        "closures",
        type=task_type,
        key=key,
        names=[name for name, _ in named],
        keys=[bucket for _, bucket in named],
        limit=CLOSURES_SHOWN,
        timeout=LIMIT_TIMEOUT,
    )
    return [Closure(**row) for row in rows]
