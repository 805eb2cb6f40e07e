"""The lines of waiting tasks that a lane knows, and how far it has claimed along each of them.

A line is the waiting tasks of one type and priority, in the order in which they are claimed. Claiming line by
line lets a lane take as many tasks of each type as it has room for, without reading past those of other
types.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

import asyncpg

from organism_flows.blocks.queue.db.bisection import logger, one_line
from organism_flows.blocks.queue.db.sqlstates import verdict
from organism_flows.blocks.queue.db.statements import statement
from organism_flows.blocks.queue.wire import Batch

CLAIM_TIMEOUT = LOOK_TIMEOUT = 10.0
CLAIM_LIMIT = 10_000
"""Most tasks of one claim."""
LINES_LIMIT = 64
"""Most lines that one claim reads. Each costs about 3 µs, and there may be thousands of types and priorities.
"""
SLOW = (TimeoutError, asyncpg.QueryCanceledError)
SLOWED_BY = 10
"""Divisor of the next claim's limit after a claim that timed out. Each success doubles the limit again."""
REWIND_S = 1.0
"""Seconds between two returns of the cursors to the heads of their lines: tasks may have returned there."""
LOOK_PAUSE_S = 0.05
"""Shortest pause between two scans for lines, in seconds."""
LOOK_SHARE = 20
"""Upper bound, as 1/N, on the share of time spent on scans for lines and on claims from the heads of lines.
It holds however many dead index entries they read past, up to `LOOK_PAUSE_LIMIT_S`."""
LOOK_PAUSE_LIMIT_S = 60.0
"""Longest pause between two scans for lines, in seconds, whatever `LOOK_SHARE` demands."""
KEEP_S = 60.0
"""Seconds for which an empty line is still claimed from. The first claim then finds the next task of its
type."""
LATE_S = 2.0
"""Longest time between the start of a transaction and its commit, in seconds, for its task to be found at
once."""
NEVER = float("inf")


@dataclass(slots=True)
class ClaimLine:
    """The waiting tasks of one type and priority."""

    type: str
    priority: int
    due_s: float = 0.0
    """Seconds from the last scan until its first task is due. 0 or less means it is due; infinity means the
    line is empty."""
    after: tuple[datetime, UUID] | None = None
    """Place after which the next claim begins. `None` means at the head. Index entries of claimed tasks stay
    until no snapshot can see them. A claim that begins after them is as cheap as the first."""
    exhausted: bool = False
    """True if the last claim found fewer tasks than it asked for."""
    seen_at: float = 0.0
    """When it was last known to hold a task, by the clock of this process."""


class ClaimLines:
    """The lines of one queue, as one lane knows them.

    Args:
        pool: Connections to the queue's database.
        lane: Id of the lane.
        clock: Returns seconds that only grow.
    """

    def __init__(
        self, pool: asyncpg.Pool[Any], lane: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._lane = lane
        self._clock = clock
        self._lines: dict[tuple[str, int], ClaimLine] = {}
        self._turn = 0
        self._looked_at = self._rewound_at = -NEVER
        self._look_took_s: deque[float] = deque([0.0], maxlen=5)
        self._from_heads_took_s = 0.0
        """Duration of the last claim that began at the head of a line, in seconds."""
        self._found = False
        self._most = CLAIM_LIMIT
        """Most tasks of the next claim. Smaller after a claim that timed out, for example because of enormous
        params."""
        self.stale = True
        """True if something may have changed since the last scan: tasks were claimed, or the lane was woken.
        """

    def __iter__(self) -> Iterator[ClaimLine]:
        return iter(self._lines.values())

    @property
    def age_s(self) -> float:
        """Return the seconds since the last scan."""
        return self._clock() - self._looked_at

    @property
    def exhausted(self) -> bool:
        """Return True if the last claim found every due task, in every line."""
        return all(line.exhausted for line in self)

    @property
    def next_look_s(self) -> float:
        """Return the seconds until another scan is worth its cost."""
        return max(LOOK_PAUSE_S, self._look_cost_s) - self.age_s

    @property
    def _look_cost_s(self) -> float:
        # The shortest of the last few: the others have waited for a busy machine.
        return _pause_after(min(self._look_took_s))

    async def look(self) -> bool:
        """Read which lines exist. From time to time, let the cursors begin again at the heads.

        Returns:
            True if there is a line that was not known.
        """
        started = self._clock()
        pause_s = max(REWIND_S, self._look_cost_s, _pause_after(self._from_heads_took_s))
        rewind = started - self._rewound_at > pause_s
        found = await lines_of(self._pool)
        now = self._looked_at = self._clock()
        self._look_took_s.append(now - started)
        self.stale = False
        if rewind:
            self._rewound_at = now
        news = any((line.type, line.priority) not in self._lines for line in found)
        lines = {}
        for line in found:
            known = self._lines.get((line.type, line.priority), line)
            known.due_s, known.seen_at, known.exhausted = line.due_s, now, False
            lines[line.type, line.priority] = known
        for key, line in self._lines.items():
            if key not in lines and now - line.seen_at < KEEP_S:
                line.due_s = NEVER
                lines[key] = line
        if rewind:
            for line in lines.values():
                line.after = None
        self._lines = dict(sorted(lines.items(), key=lambda item: -item[1].priority))
        return news

    async def claim(self, limit: int, room: Callable[[str], int]) -> Batch:
        """Claim due tasks by priority. Within one priority the types take turns.

        Args:
            limit: Most tasks to claim.
            room: Returns the most tasks to take of a type.
        """
        if not self._lines or (self._found and self.age_s > max(REWIND_S, self._look_cost_s)):
            await self.look()
        limit = min(limit, self._most)
        wanted = self._wanted(limit, room)
        if not wanted and self.stale and self.next_look_s <= 0:
            # There is room for none of the known types, but there may be new ones by now.
            await self.look()
            wanted = self._wanted(limit, room)
        self._found = False
        while wanted:
            news = [line for line, _ in wanted if not line.exhausted]
            # One task from one line at a time, to find out which one takes so long.
            wanted = wanted[:1] if self._most == 1 else wanted
            try:
                batch = await self._take(limit, wanted)
            except SLOW as error:
                if limit == 1:
                    await self._pass_over(wanted[0][0], error)
                self._most = max(limit // SLOWED_BY, 1)
                raise
            except Exception as error:
                if verdict(error) != "value":
                    raise
                batch = await self._take_singly(wanted)
            self._most = min(self._most * 2, CLAIM_LIMIT)
            if len(batch) or not news:
                return batch
            # Lines that were expected to hold more were empty. The lower lines of their types have their
            # turn.
            wanted = self._wanted(limit, room)
        return Batch()

    async def _take(self, limit: int, wanted: Sequence[tuple[ClaimLine, int]]) -> Batch:
        started = self._clock()
        rows = await self._pool.fetch(
            statement("claim"),
            self._lane,
            limit,
            [line.type for line, _ in wanted],
            [line.priority for line, _ in wanted],
            [quota for _, quota in wanted],
            [line.after and line.after[0] for line, _ in wanted],
            [line.after and line.after[1] for line, _ in wanted],
            timeout=CLAIM_TIMEOUT,
        )
        if any(line.after is None for line, _ in wanted):
            self._from_heads_took_s = self._clock() - started
        for line, _ in wanted:
            line.exhausted = len(rows) < limit
        if not rows:
            return Batch()
        self._found = self.stale = True
        # asyncpg turns a list of rows into columns only through zip.
        *columns, priorities, moments = (list(column) for column in zip(*rows, strict=True))
        batch = Batch(*columns)
        self._advance(wanted, batch, priorities, moments, cut=len(rows) >= limit)
        return batch

    async def _take_singly(self, wanted: Sequence[tuple[ClaimLine, int]]) -> Batch:
        """Claim one task of each line, and pass over those that cannot be claimed."""
        batch = Batch()
        for line, _ in wanted:
            try:
                batch.extend(await self._take(1, [(line, 1)]))
            except Exception as error:
                if verdict(error) != "value":
                    raise
                await self._pass_over(line, error)
            line.exhausted = False
        return batch

    async def _pass_over(self, line: ClaimLine, why: Exception) -> None:
        """Begin after the first task of ``line``. If Postgres refuses the task, make it a dead letter."""
        pool = self._pool
        after, after_id = line.after or (None, None)
        place = await pool.fetchrow(
            statement("next_in_line"), line.type, line.priority, after, after_id, timeout=CLAIM_TIMEOUT
        )
        if place is None:
            return
        logger.error("task %s cannot be claimed: %s", place["id"], one_line(why))
        if verdict(why) == "value":
            try:
                error = f"it cannot be claimed: {one_line(why)}"
                await pool.execute(statement("reject"), place["id"], error, timeout=CLAIM_TIMEOUT)
            except Exception as again:
                if verdict(again) != "value":
                    raise
        line.after = (place["run_after"], place["id"])

    def _wanted(self, limit: int, room: Callable[[str], int]) -> list[tuple[ClaimLine, int]]:
        """Return the lines to claim from, highest priority first, each with the most tasks to take."""
        self._turn += 1
        wanted: list[tuple[ClaimLine, int]] = []
        served: set[str] = set()
        rooms: dict[str, int] = {}
        for _, group in groupby(self, attrgetter("priority")):
            lines = list(group)
            shift = self._turn * (LINES_LIMIT if len(lines) > LINES_LIMIT else 1) % len(lines)
            for line in (*lines[shift:], *lines[:shift]):
                if line.type in served:
                    continue
                quota = rooms.setdefault(line.type, room(line.type))
                if quota > 0:
                    wanted.append((line, quota))
                # A lower line of the type has its turn in two cases: when those above hold less than was
                # asked for, or when the limit of the claim keeps their sum within the room.
                if not line.exhausted and quota < limit:
                    served.add(line.type)
        if len(wanted) > LINES_LIMIT:
            # Lines that held nothing are left out first: the next scan finds what has been added to them.
            chosen = sorted(range(len(wanted)), key=lambda place: (wanted[place][0].exhausted, place))
            wanted = [wanted[place] for place in sorted(chosen[:LINES_LIMIT])]
        return wanted

    def _advance(
        self,
        wanted: Sequence[tuple[ClaimLine, int]],
        batch: Batch,
        priorities: list[int],
        moments: list[datetime],
        *,
        cut: bool,
    ) -> None:
        # The lines are read in order. If the limit cut the claim short, the last line found holds more.
        cut_line = (batch.types[-1], priorities[-1]) if cut else None
        taken: dict[tuple[str, int], list[tuple[datetime, str]]] = {}
        for key, moment, task_id in zip(
            zip(batch.types, priorities, strict=True), moments, batch.ids, strict=True
        ):
            taken.setdefault(key, []).append((moment, task_id))
        for line, quota in wanted:
            places = taken.get((line.type, line.priority))
            if not places:
                continue
            line.seen_at = self._clock()
            moment, task_id = max(places)
            if len(places) >= quota or (line.type, line.priority) == cut_line:
                line.exhausted = False
                last = (moment, UUID(task_id))
            else:
                last = (moment - timedelta(seconds=LATE_S), UUID(int=0))
            line.after = max(line.after or last, last)


def _pause_after(took_s: float) -> float:
    """Return the seconds to wait after something that took so long, so that it stays within `LOOK_SHARE`."""
    return min(LOOK_SHARE * took_s, LOOK_PAUSE_LIMIT_S)


async def lines_of(pool: asyncpg.Pool[Any]) -> list[ClaimLine]:
    """Return the lines of waiting tasks, highest priority first."""
    rows = await pool.fetch(statement("lines"), timeout=LOOK_TIMEOUT)
    lines = [ClaimLine(row["type"], row["priority"], row["due_s"]) for row in rows]
    return sorted(lines, key=lambda line: -line.priority)
