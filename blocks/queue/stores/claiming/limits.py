"""Limits on claims: how many tasks may run at once, or begin within a period.

A claim counts under a lock what the limits of its tasks allow, and takes no more. What runs is counted from
the tasks that lanes hold. So nothing can leak: whatever dies, its tasks count until they are taken back. A
claim of tasks without limits does none of this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson

from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.models.limits import Closure, Limit, LimitRoom
from organism_flows.blocks.queue.stores.claiming.allowance import WHOLE, Allowance, Bucket, Share, Wanted
from organism_flows.blocks.queue.stores.claiming.held import Held, Running, scopes_of
from organism_flows.blocks.queue.stores.claiming.line_shares import LineId
from organism_flows.blocks.queue.wire import Batch

LIMIT_TIMEOUT = 10.0
NEVER = float("inf")
COSTS_AT_ONCE = 500
"""Most tasks of a line whose estimates a claim reads."""
ODD_KEYS = 256
"""Most keys with amounts of their own, or closed, that a claim tells from the others."""
CLOSURES_SHOWN = 1000
"""Most closures that are read."""


class Limits:
    """The limits of a queue, as one lane knows them.

    Args:
        database: The queue's database.
        held: What lanes hold.
    """

    def __init__(self, database: Database, held: Held) -> None:
        self._database = database
        self._held = held
        self._limits: list[Limit] = []
        self.reached = False
        """True if a limit kept the last claim from taking more."""
        self.next_s = NEVER
        """Seconds from the last claim until a rate allows more."""

    async def read(self) -> None:
        """Read which limits there are."""
        self._limits = await read_limits(self._database)

    @asynccontextmanager
    async def claim(self, wanted: Wanted, share: Share) -> AsyncIterator[LimitedClaim]:
        """Yield what of ``wanted`` may be claimed. What is taken counts once the block has ended."""
        self.reached, self.next_s = False, NEVER
        buckets = (
            {line.id: _buckets(self._limits, line.type, line.key) for line, _ in wanted}
            if self._limits
            else {}
        )
        if not any(buckets.values()):
            yield LimitedClaim(self._database, wanted, buckets, self._held)
            return
        async with self._database.transaction(timeout=LIMIT_TIMEOUT) as session:
            claim = LimitedClaim(session, wanted, buckets, self._held)
            await claim.count(share)
            yield claim
            await claim.spend()
        self.reached, self.next_s = claim.reached, claim.next_s


class ClaimRaced(Exception):
    """Error: a row was locked meanwhile, so a claim took other tasks than were counted. It is undone."""


class LimitedClaim:
    """One claim, as far as limits allow it.

    Args:
        session: What it runs on.
        wanted: Lines to claim from, each with the most tasks to take.
        buckets: What a task of each line counts against.
        held: What lanes hold.
    """

    def __init__(
        self, session: Session, wanted: Wanted, buckets: dict[LineId, list[Bucket]], held: Held
    ) -> None:
        self.session = session
        self.wanted = wanted
        self.reached = False
        self.next_s = NEVER
        self._buckets = buckets
        self._held = held
        self._rates: dict[Bucket, float] = {}
        """Level of each rate."""
        self._budgets: dict[Bucket, float] = {}
        """Units that are left of each limit on cost."""
        self._costs: dict[str, float] = {}
        """Estimates of the tasks that may be claimed, by id, of lines with limits on cost."""
        self.whole: set[LineId] = set()
        """Of these, the lines without other due tasks than those of which there is an estimate."""
        self._now: datetime | None = None
        self._reduced: dict[LineId, int] = {}
        """Most tasks of each line of which a limit allows fewer than were wanted."""
        self._spent: Counter[Bucket] = Counter()
        self._charged: dict[Bucket, float] = {}

    @property
    def by_cost(self) -> set[LineId]:
        """Return the lines whose tasks count against a limit on cost, which is reckoned in their order."""
        costly = self._budgets.keys()
        return {line for line, buckets in self._buckets.items() if not costly.isdisjoint(buckets)}

    async def count(self, share: Share) -> None:
        """Reduce what is wanted to what the limits allow now.

        Args:
            share: Shares out what several lines want, and what is not enough for all.
        """
        asked = sorted({bucket for buckets in self._buckets.values() for bucket in buckets})
        names = sorted({name for name, _ in asked})
        locked = await self.session.fetch("limit_lock", names=names, timeout=LIMIT_TIMEOUT)
        rooms: dict[Bucket, float] = {}
        amounts: dict[Bucket, float] = {}
        next_s: dict[Bucket, float] = {}
        running = await self._held.running(self.session, scopes_of(locked))
        rows = await self.session.fetch("limit_odd", names=names, most=ODD_KEYS + 1, timeout=LIMIT_TIMEOUT)
        odd = {tuple(row) for row in rows} if len(rows) <= ODD_KEYS else set(asked)
        # For most keys of a limit on what runs this is all. `limit_room` costs about 15 us for each.
        plain = {one["name"]: one["amount"] for one in locked if one["kind"] == "running"}
        others = odd.union(bucket for bucket in asked if bucket[0] not in plain)
        rooms |= {(n, key): plain[n] - running[n][key] for n, key in asked if (n, key) not in others}
        for left in await _rooms(self.session, running, [bucket for bucket in asked if bucket in others]):
            bucket = (left.name, left.key)
            rooms[bucket] = left.room
            if left.kind == "rate":
                self._rates[bucket], self._now = left.level, left.now
            if left.kind == "cost":
                self._budgets[bucket], amounts[bucket] = left.room, left.amount
            if left.next_s is not None:
                next_s[bucket] = left.next_s
        costs = await self._next_costs(amounts) if amounts else {}
        shared = {one["name"] for one in locked if not one["by_key"]}
        allowance = Allowance(rooms, self._buckets, shared, amounts, costs)
        allowed = allowance.share_out(self.wanted, share)
        for line, quota in self.wanted:
            known = allowance.known(line.id, quota)
            if not known:
                line.exhausted = True
                continue
            most = allowed[line.id]
            if most < known:
                self._reduced[line.id] = most
                self.whole.discard(line.id)
            if most > 0:
                line.limited = line.crowded_out = False
                continue
            short = allowance.short(line.id)
            self.next_s = min(self.next_s, max((next_s.get(b, NEVER) for b in short), default=NEVER))
            # Of one that is expected to be empty, nothing more is known. One whose own key has no room has
            # had its turn.
            line.limited |= not line.idle
            line.crowded_out = not line.idle and any(name in shared for name, _ in short)
            line.served &= not line.crowded_out
            self.reached = line.exhausted = True
        self.wanted = [(line, allowed[line.id]) for line, _ in self.wanted if allowed[line.id] > 0]

    async def _next_costs(self, amounts: dict[Bucket, float]) -> dict[LineId, list[float]]:
        """Return what the next tasks of each line with a limit on cost are expected to spend.

        Tasks that no period has room for are made dead letters. A limit of 0 is closed, and they wait.
        """
        asked = [
            (line, min(quota, COSTS_AT_ONCE))
            for line, quota in self.wanted
            if any(bucket in amounts for bucket in self._buckets[line.id])
        ]
        rows = await self.session.fetch(
            "limit_costs",
            types=[line.type for line, _ in asked],
            priorities=[line.priority for line, _ in asked],
            domains=[line.domain for line, _ in asked],
            keys=[line.key for line, _ in asked],
            quotas=[quota for _, quota in asked],
            after=[line.after and line.after[0] for line, _ in asked],
            after_ids=[line.after and line.after[1] for line, _ in asked],
            timeout=LIMIT_TIMEOUT,
        )
        found: dict[LineId, list[float]] = {}
        for row in rows:
            line, _ = asked[row["place"]]
            mine = {b: amounts[b] for b in self._buckets[line.id] if b in amounts}
            estimates = []
            for task, cost in zip(row["ids"] or [], row["costs"] or [], strict=True):
                over = next((b for b, amount in mine.items() if 0 < amount < cost), None)
                if over is not None:
                    text = (
                        f"its cost of {cost:g} exceeds limit {over[0]}, which allows {mine[over]:g} a period"
                    )
                    await self.session.execute("reject", id=task, error=text, timeout=LIMIT_TIMEOUT)
                    continue
                estimates.append(cost)
                self._costs[str(task)] = cost
            found[line.id] = estimates
            if len(row["ids"] or []) < asked[row["place"]][1]:
                self.whole.add(line.id)
        return found

    def take(self, batch: Batch, lines: Sequence[LineId]) -> None:
        """Record what was claimed, and the line of each task.

        Raises:
            ClaimRaced: They cost more than there is room for.
        """
        if not self._buckets:
            return
        self._held.add(batch.claims, lines)
        if self._budgets:
            self._charge(batch.ids, lines)
        taken = Counter(lines)
        self.reached |= any(taken[line] >= most for line, most in self._reduced.items())
        for line, tasks in taken.items():
            for bucket in self._buckets[line]:
                self._spent[bucket] += tasks

    def _charge(self, ids: Iterable[str], lines: Iterable[LineId]) -> None:
        for task, line in zip(ids, lines, strict=True):
            for bucket in self._buckets[line]:
                if bucket in self._budgets:
                    if task not in self._costs:
                        raise ClaimRaced
                    self._charged[bucket] = self._charged.get(bucket, 0.0) + self._costs[task]
        if any(units > self._budgets[bucket] + WHOLE for bucket, units in self._charged.items()):
            raise ClaimRaced

    async def spend(self) -> None:
        """Write what is left of rates, and what is charged to limits on cost."""
        if self._charged:
            charged = sorted(self._charged)
            await self.session.execute(
                "limit_charge",
                names=[name for name, _ in charged],
                keys=[key for _, key in charged],
                units=[self._charged[bucket] for bucket in charged],
                timeout=LIMIT_TIMEOUT,
            )
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


async def room_of(
    session: Session, task_type: str, key: str, cost: float | None
) -> tuple[list[LimitRoom], list[Closure]]:
    """Return what each limit of a task allows it now, and what is closed that it needs."""
    limits = await read_limits(session)
    buckets = _buckets(limits, task_type, key)
    names = {name for name, _ in buckets}
    scopes = scopes_of(dict(limit) for limit in limits if limit.name in names)
    running = await Held().running(session, scopes)
    rooms = await _rooms(session, running, buckets)
    if any(room.kind == "cost" for room in rooms):
        if cost is None:
            policies = await session.fetch("policies", timeout=LIMIT_TIMEOUT)
            cost = next((row["cost"] for row in policies if row["type"] == task_type), None)
        needs = 1.0 if cost is None else cost
        rooms = [replace(room, needs=needs) if room.kind == "cost" else room for room in rooms]
    return rooms, await read_closures(session, task_type, key, buckets)


async def _rooms(session: Session, running: Running, buckets: Sequence[Bucket]) -> list[LimitRoom]:
    """Return what is left for each of ``buckets``. A limit that is gone by now is left out.

    Args:
        session: What it runs on.
        running: How many tasks run of each bucket.
        buckets: What is asked for.
    """
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
            room=row["room"] - (0 if row["opens_s"] is not None else running[row["name"]][row["key"]]),
            level=row["level"],
            next_s=_next_s(row),
            needs=1.0,
            opens_s=row["opens_s"],
            now=row["now"],
        )
        for row in rows
    ]


def _next_s(row: Any) -> float | None:
    waits = [row["opens_s"]] if row["opens_s"] is not None else []
    if row["per_s"] and row["amount"]:
        waits.append(max(1 - row["level"], 0) / row["per_s"])
    if row["falls_s"] is not None:
        waits.append(row["falls_s"])
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
    return [limit_of(row) for row in rows]


def limit_of(row: Any) -> Limit:
    """Return a row of ``limits.sql`` as a limit."""
    fields = {**row, "exceptions": orjson.loads(row["exceptions"])}
    del fields["declared"]
    return Limit(**fields)


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
