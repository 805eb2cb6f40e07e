"""The lines of waiting tasks that a lane knows, and how far it has claimed along each of them.

A line is the waiting tasks of one type, priority, domain and key, in the order in which they are claimed.
Claiming line by line lets a lane take as many tasks as it has room for from each, without reading past those
of others: a backlog of one type, domain or key holds up no other.

A type and priority may have any number of keys. Of those with more than `LINES_AT_ONCE` lines a lane knows
one page at a time, and goes round; so a claim costs the same with 1,000 keys as with 100,000.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from organism_flows.blocks.queue import traces
from organism_flows.blocks.queue.db.bisection import logger, one_line
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.db.sqlstates import verdict
from organism_flows.blocks.queue.stores.claiming.earliest_first import (
    EarliestFirst,
    Target,
    bound_by_deadlines,
)
from organism_flows.blocks.queue.stores.claiming.held import Held, Holding, unknown
from organism_flows.blocks.queue.stores.claiming.key_turns import KeyTurns
from organism_flows.blocks.queue.stores.claiming.limits import ClaimRaced, Limits
from organism_flows.blocks.queue.stores.claiming.line_pages import Heard, LinePages, deaf, lines_of
from organism_flows.blocks.queue.stores.claiming.line_shares import (
    ClaimLine,
    LineId,
    LineShares,
    Stream,
    by_rank,
    by_type,
)
from organism_flows.blocks.queue.stores.reports import restore
from organism_flows.blocks.queue.wire import Batch

CLAIM_TIMEOUT = 10.0
CLAIM_LIMIT = 10_000
"""Most tasks of one claim."""
LINES_AT_ONCE = 64
"""Most lines of a type and priority that are known at once. Of more, a lane reads a page for each claim."""
LINES_KEPT = 10_000
"""Most lines whose cursors are kept."""
SLOW = (TimeoutError, asyncpg.QueryCanceledError)
SLOWED_BY = 10
"""Divisor of the next claim's limit after a claim that timed out. Each success doubles the limit again."""
REWIND_S = 1.0
"""Seconds between two returns of the cursors to the heads of their lines: tasks may have returned there."""
SCAN_PAUSE_S = 0.05
"""Shortest pause between two scans for lines, in seconds."""
SCAN_SHARE = 20
"""Upper bound, as 1/N, on the share of time spent on scans for lines and on claims from the heads of lines.
It holds however many dead index entries they read past, up to `SCAN_PAUSE_LIMIT_S`."""
SCAN_PAUSE_LIMIT_S = 60.0
"""Longest pause between two scans for lines, in seconds, whatever `SCAN_SHARE` demands."""
KEEP_S = 60.0
"""Seconds for which an empty line is still claimed from: the first claim finds its next task."""
LATE = timedelta(seconds=2)
"""Longest time from start to commit of a transaction whose tasks are found at once."""
NO_ID = str(UUID(int=0))
"""Before every id."""
NEVER = float("inf")
NO_QUOTA = 2**31
"""More than a line holds: what was found there was all."""


class ClaimLines:
    """The lines of one queue, as one lane knows them.

    Args:
        database: The queue's database.
        lane: Id of the lane.
        clock: Returns seconds that only grow.
        heard: Returns how often tasks have become ready. By default nobody tells.
        holding: Returns what the lane holds. By default that is not known.
    """

    def __init__(
        self,
        database: Database,
        lane: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        heard: Heard = deaf,
        holding: Holding = unknown,
    ) -> None:
        self._database = database
        self._lane = lane
        self._clock = clock
        self._known: dict[LineId, ClaimLine] = {}
        """Every line whose cursor is kept, those of earlier pages included."""
        self._lines: list[ClaimLine] = []
        """The lines to claim from, highest rank first."""
        self._pages = LinePages(database, clock, heard)
        self._shares = LineShares()
        self.turns = KeyTurns(clock)
        self._earliest = EarliestFirst()
        self._held = Held(lane, holding)
        self.limits = Limits(database, self._held)
        self._looked_at = self._rewound_at = -NEVER
        self._scan_took_s: deque[float] = deque([0.0], maxlen=5)
        self._from_heads_took_s = 0.0
        """Duration of the last claim that began at the head of a line, in seconds."""
        self._found = False
        self._most = CLAIM_LIMIT
        """Most tasks of the next claim. Fewer after one that timed out, for example for enormous params."""
        self.stale = True
        """True if something may have changed since the last scan: tasks were claimed, or the lane woke."""

    def __iter__(self) -> Iterator[ClaimLine]:
        return iter(self._lines)

    @property
    def age_s(self) -> float:
        """Return the seconds since the last scan."""
        return self._clock() - self._looked_at

    @property
    def exhausted(self) -> bool:
        """Return True if the last claim found every due task, in every line."""
        if self._pages and self._found:
            return False
        return all(line.exhausted or line.held for line in self)

    @property
    def next_scan_s(self) -> float:
        """Return the seconds until another scan is worth its cost."""
        return max(SCAN_PAUSE_S, self._scan_cost_s) - self.age_s

    @property
    def _scan_cost_s(self) -> float:
        # The shortest of the last few: the others have waited for a busy machine.
        return _pause_after(min(self._scan_took_s))

    async def scan(self) -> bool:
        """Read which lines exist. From time to time, let the cursors begin again at the heads.

        Returns:
            True if there is a line that was not known.
        """
        started = self._clock()
        pause_s = max(REWIND_S, self._scan_cost_s, _pause_after(self._from_heads_took_s))
        rewind = started - self._rewound_at > pause_s
        await self.limits.read()
        found = await lines_of(self._database, LINES_AT_ONCE)
        now = self._looked_at = self._clock()
        self._scan_took_s.append(now - started)
        if rewind:
            self._rewound_at = now
            self._earliest.begin_again()
            for line in self._known.values():
                line.after = None
        news = any(line.id not in self._known for line in found)
        sizes = Counter(line.id[:2] for line in found)
        many = {group for group, size in sizes.items() if size >= LINES_AT_ONCE}
        self._pages.keep(many)
        self.stale = bool(self._pages.blocked)
        # Those of a group with many are only its first ones. They do until the first page is read.
        paged = {line.id[:2] for line in self._lines} & many
        lines = [self._as_known(line, now) for line in found if line.id[:2] not in paged]
        seen = {line.id for line in lines}
        for line in self._lines:
            if line.id not in seen and (line.id[:2] in paged or now - line.seen_at < KEEP_S):
                line.due_s = line.due_s if line.id[:2] in paged else NEVER
                lines.append(line)
        self._lines = by_rank(lines)
        self._known = {line.id: line for line in (*self._known.values(), *self._lines)}
        while len(self._known) > max(LINES_KEPT, len(self._lines)):
            del self._known[next(iter(self._known))]
        return news

    def _as_known(self, found: ClaimLine, now: float) -> ClaimLine:
        """Return the line that was known before, if it was, with what has just been found."""
        line = self._known.get(found.id, found)
        line.due_s, line.weight, line.extra, line.seen_at = found.due_s, found.weight, found.extra, now
        line.order, line.was_limited = found.order, line.limited
        line.exhausted = line.limited = line.served = False
        return line

    async def claim(
        self,
        limit: int,
        room: Callable[[Stream], int],
        stream: Callable[[str, str], Stream] = by_type,
    ) -> Batch:
        """Claim due tasks by priority. Within one priority the streams take turns, and the lines of a stream.

        Args:
            limit: Most tasks to claim.
            room: Returns the most tasks to take of a stream.
            stream: Returns the stream of a type and domain (empty if the task has none).
        """
        self._held.forget_ended()
        if not self._lines or (self._found and self.age_s > max(REWIND_S, self._scan_cost_s)):
            await self.scan()
        limit = min(limit, self._most)
        await self._turn_pages(limit, room, stream)
        wanted = self._wanted(limit, room, stream)
        if not wanted and self.stale and self.next_scan_s <= 0:
            # There is room for none of the known types, but there may be new ones by now.
            await self.scan()
            wanted = self._wanted(limit, room, stream)
        self._found = False
        while wanted:
            news = any(not line.exhausted for line, _ in wanted)
            limited = [line for line, _ in wanted if line.limited]
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
            if len(batch) or not (news or any(not line.limited for line in limited)):
                return batch
            # Lines that were expected to hold more were empty. The lower lines of their types have their
            # turn, and those that a limit kept back for them.
            wanted = self._wanted(limit, room, stream)
        return Batch()

    def _wanted(
        self, limit: int, room: Callable[[Stream], int], stream: Callable[[str, str], Stream]
    ) -> list[tuple[ClaimLine, int]]:
        """Return the lines to claim from now, each with the most tasks to take."""
        lines = self.turns.open(self._lines, self.age_s)
        return self._shares.of_claim(lines, limit, room, stream)

    async def _turn_pages(
        self, limit: int, room: Callable[[Stream], int], stream: Callable[[str, str], Stream]
    ) -> None:
        """Read the next lines of each group that has many and room."""
        for group in self._pages:
            mine = [line for line in self._lines if line.id[:2] == group]
            rooms = {name: room(name) for name in {stream(line.type, line.domain) for line in mine}}
            free = min(limit, sum(max(places, 0) for places in rooms.values()))
            if free <= 0:
                continue
            page = await self._pages.turn(
                group,
                free,
                lambda line, rooms=rooms: rooms.get(stream(line.type, line.domain), 0),  # type: ignore[misc]
                lambda line: self._as_known(line, self._clock()),
            )
            if page is None:
                continue
            self._known.update((line.id, line) for line in page)
            ids = {line.id for line in page}
            others = [
                line
                for line in self._lines
                if line.id not in ids and (line.id[:2] != group or self.turns.keeps(line))
            ]
            self._lines = by_rank([*others, *page])

    async def _take(self, limit: int, wanted: list[tuple[ClaimLine, int]]) -> Batch:
        try:
            async with self.limits.claim(wanted, self._shares.within) as claim:
                if not claim.wanted:
                    return Batch()
                targets = await self._earliest.targets(claim)
                batch, lines, moments = await self._claim(claim.session, limit, targets)
                claim.take(batch, lines)
        except ClaimRaced:
            for line, _ in wanted:
                line.exhausted = True
            self.stale = True
            return Batch()
        early, order = self._earliest.take(batch.ids)
        if early:
            batch, lines, moments = batch.take(order), [lines[p] for p in order], [moments[p] for p in order]
        for line, _ in claim.wanted:
            line.exhausted = len(batch) < limit and line.id not in early
        if batch:
            self._found = self.stale = True
            along = [
                (line, NO_QUOTA if line.id in claim.whole else quota)
                for line, quota in claim.wanted
                if line.id not in early
            ]
            self._advance(along, batch, lines, moments, cut=len(batch) >= limit)
        return batch

    async def _claim(
        self, session: Session, limit: int, targets: Sequence[Target]
    ) -> tuple[Batch, list[LineId], list[datetime]]:
        """Claim tasks, and return them, with the line and the due time of each."""
        started, started_ns = self._clock(), time.time_ns()
        rows = await session.fetch(
            "claim",
            lane=self._lane,
            limit=limit,
            types=[line.type for line, _, _ in targets],
            priorities=[line.priority for line, _, _ in targets],
            domains=[line.domain for line, _, _ in targets],
            keys=[line.key for line, _, _ in targets],
            quotas=[quota for _, quota, _ in targets],
            after=[after and after[0] for _, _, after in targets],
            after_ids=[after and after[1] for _, _, after in targets],
            timeout=CLAIM_TIMEOUT,
        )
        if any(after is None for _, _, after in targets):
            self._from_heads_took_s = self._clock() - started
        if not rows:
            return Batch(), [], []
        columns: list[list[Any]] = list(rows[0])
        for row in rows[1:]:
            for column, values in zip(columns, row, strict=True):
                column.extend(values)
        *of_batch, begun, priorities, keys, moments, traceparents = columns
        batch = Batch(*of_batch)
        await restore(session, batch, begun)
        traces.claimed(batch, traceparents, moments, self._lane, started_ns)
        if together := {line.type for line, _, _ in targets if line.order.affinity_s is not None}:
            named = zip(batch.claims, batch.types, keys, strict=True)
            batch.keys = {claim: key for claim, kind, key in named if key and kind in together}
        if bounded := {line.type for line, _, _ in targets if line.order.timeout_by_deadline}:
            await bound_by_deadlines(session, batch, bounded)
        domains = (domain or "" for domain in batch.domains)
        return batch, list(zip(batch.types, priorities, domains, keys, strict=True)), moments

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
        after, after_id = line.after or (None, None)
        place = await self._database.fetchrow(
            "next_in_line",
            type=line.type,
            priority=line.priority,
            domain=line.domain,
            key=line.key,
            after=after,
            after_id=after_id,
            timeout=CLAIM_TIMEOUT,
        )
        if place is None:
            return
        logger.error("task %s cannot be claimed: %s", place["id"], one_line(why))
        if verdict(why) == "value":
            try:
                error = f"it cannot be claimed: {one_line(why)}"
                await self._database.execute("reject", id=place["id"], error=error, timeout=CLAIM_TIMEOUT)
            except Exception as again:
                if verdict(again) != "value":
                    raise
        line.after = (place["run_after"], str(place["id"]))

    def _advance(
        self,
        wanted: Sequence[tuple[ClaimLine, int]],
        batch: Batch,
        lines: list[LineId],
        moments: list[datetime],
        *,
        cut: bool,
    ) -> None:
        taken = Counter(lines)
        last_of: dict[LineId, tuple[datetime, str]] = {}
        for line_id, place in zip(lines, zip(moments, batch.ids, strict=True), strict=True):
            if line_id not in last_of or place > last_of[line_id]:
                last_of[line_id] = place
        # The lines are read in order. If the limit cut the claim short, the last line found holds more.
        cut_line = next(reversed(taken)) if cut else None
        now = self._clock()
        for line, quota in wanted:
            if line.id not in last_of:
                continue
            line.seen_at = now
            moment, task_id = last_of[line.id]
            moment = moment.replace(tzinfo=UTC)
            if taken[line.id] >= quota or line.id == cut_line:
                line.exhausted = False
                last = (moment, task_id)
            else:
                last = (moment - LATE, NO_ID)
            line.after = max(line.after or last, last)


def _pause_after(took_s: float) -> float:
    """Return the seconds to wait after something that took so long, so that it stays within `SCAN_SHARE`."""
    return min(SCAN_SHARE * took_s, SCAN_PAUSE_LIMIT_S)
