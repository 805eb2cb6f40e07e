"""Pages of the lines of a type and priority with many: a lane knows one at a time, and goes round.

To read a line costs Postgres about 15 us, more than to claim from it. So lines are read for several pages at
once. Where they are all there are, they serve for several rounds, until tasks become ready.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, TypeAlias

from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.stores.claiming.line_shares import (
    LINES_LIMIT,
    ClaimLine,
    ClaimOrder,
    by_rank,
)

Group: TypeAlias = tuple[str, int]
"""A type and priority."""
Place: TypeAlias = tuple[str, str]
"""Domain and key of a line of a group."""
PAGE_LINES = (16, LINES_LIMIT[1])
"""Fewest and most lines of a page; in between, as many as the claim may take tasks."""
PAGES_READ = 8
"""Most pages whose lines are read at once."""
LINES_READ = 4 * LINES_LIMIT[1]
"""Most lines that are read at once."""
KEPT_S = 1.0
"""Longest time for which lines that were read are used. Retries become due without a notification."""
PAGE_TIMEOUT = 10.0
NEVER = float("inf")
Heard: TypeAlias = Callable[[], "int | None"]
"""Returns how often tasks are known to have become ready so far. `None` if some may go unnoticed."""
place_of = attrgetter("domain", "key")


def deaf() -> None:
    """Return that nobody tells when tasks become ready."""


@dataclass(frozen=True, slots=True)
class _Walk:
    """Lines of a group as they were last read, in the order of their turns."""

    lines: Sequence[ClaimLine]
    whole: bool
    """True if these are all lines of the group."""
    read_at: float
    heard: int | None
    """What `Heard` returned before."""


@dataclass(frozen=True, slots=True)
class _Page:
    """Some lines of a group, in the order of their turns."""

    after: Place | None = None
    """What it begins after. `None` means at the first line there is."""
    lines: Sequence[ClaimLine] = ()

    def place_before(self, number: int) -> Place | None:
        return place_of(self.lines[number - 1]) if number else self.after


async def lines_of(database: Database, at_once: int) -> list[ClaimLine]:
    """Return the lines of waiting tasks, highest rank first; of each group ``at_once`` at most."""
    rows = await database.fetch("lines", at_once=at_once, timeout=PAGE_TIMEOUT)
    lines = []
    for row in rows:
        line = ClaimLine(*row[: -len(ClaimOrder._fields)])
        line.order = ClaimOrder(*row[-len(ClaimOrder._fields) :])
        lines.append(line)
    return by_rank(lines)


class LinePages:
    """The page that is known of each group with many lines.

    Args:
        database: The queue's database.
        clock: Returns seconds that only grow.
        heard: Returns how often tasks have become ready.
    """

    def __init__(self, database: Database, clock: Callable[[], float], heard: Heard) -> None:
        self._database = database
        self._clock = clock
        self._heard = heard
        self._pages: dict[Group, _Page] = {}
        self._walks: dict[Group, _Walk] = {}
        self.blocked: set[Group] = set()
        """Groups whose last page held paused or closed lines only."""

    def __iter__(self) -> Iterator[Group]:
        return iter(self._pages)

    def __len__(self) -> int:
        return len(self._pages)

    def keep(self, groups: Iterable[Group]) -> None:
        """Know a page of each of ``groups``, and of no other."""
        self._pages = {group: self._pages.get(group, _Page()) for group in groups}
        self._walks = {group: walk for group, walk in self._walks.items() if group in self._pages}
        # The next page may hold what is not paused.
        self.blocked &= self._pages.keys()

    async def turn(
        self,
        group: Group,
        limit: int,
        room: Callable[[ClaimLine], int],
        known: Callable[[ClaimLine], ClaimLine],
    ) -> list[ClaimLine] | None:
        """Return the lines of the next page, unless enough of this one still wait for their turn.

        It begins with the first of those that still wait. Where the lines end, it goes on with the first.

        Args:
            group: Type and priority.
            limit: Most tasks to claim of the group. So many lines are enough.
            room: Returns the most tasks to take of a line.
            known: Returns a line that was known before in place of the same, just read.
        """
        page = self._pages[group]
        waiting = [
            number
            for number, line in enumerate(page.lines)
            if not (line.served or line.idle) and room(line) > 0
        ]
        if len(waiting) >= limit:
            return None
        after = page.place_before(waiting[0] if waiting else len(page.lines))
        size = min(max(limit, PAGE_LINES[0]), PAGE_LINES[1])
        extra: list[ClaimLine] = []
        lines = self._next_known(group, after, size)
        if not lines:
            lines, extra = await self._next_read(group, after, size, known)
        self._pages[group] = _Page(after, lines)
        return [*lines, *extra]

    def _next_known(self, group: Group, after: Place | None, size: int) -> list[ClaimLine]:
        """Return the next lines that are expected to hold due tasks; none if they have to be read."""
        walk = self._walks.get(group)
        if walk is None or walk.heard is None or walk.heard != self._heard():
            return []
        if self._clock() - walk.read_at >= KEPT_S:
            return []
        first = bisect_right(walk.lines, after, key=place_of) if after else 0
        lines: list[ClaimLine] = []
        for line in chain(walk.lines[first:], walk.lines[:first] if walk.whole else ()):
            if line.limited:  # by what ran at that time
                line.limited, line.was_limited, line.exhausted = False, True, False
            if not line.idle:
                lines.append(line)
                if len(lines) == size:
                    break
        if len(lines) < size and not walk.whole:
            return []
        for line in lines:
            line.served = False
        return lines

    async def _next_read(
        self, group: Group, after: Place | None, size: int, known: Callable[[ClaimLine], ClaimLine]
    ) -> tuple[list[ClaimLine], list[ClaimLine]]:
        """Read the next lines, and those whose tasks are due first."""
        read_at, heard = self._clock(), self._heard()
        before = self._walks.get(group)
        # While tasks keep becoming ready, what is read serves for one page.
        quiet = heard is not None and before is not None and before.heard == heard
        most = max(size, min(size * PAGES_READ, LINES_READ)) if quiet else size
        rows = await self._read(group, after, most)
        if after is not None and sum(row["walked"] for row in rows) < most:
            rows += await self._read(group, None, most)
        found: dict[Place, ClaimLine] = {}
        for row in sorted(rows, key=lambda row: not row["walked"]):
            line = ClaimLine(*group, row["domain"], row["key"], row["due_s"], row["weight"])
            line.order, line.extra = ClaimOrder(*row[-len(ClaimOrder._fields) :]), not row["walked"]
            found.setdefault(place_of(line), line)
        lines = [known(line) for line in found.values()]
        walked = [line for line in lines if not line.extra]
        whole = len(walked) < most
        # If there are others in between, those from the beginning on are not the next after the last ones.
        in_turn = [line for line in walked if whole or after is None or place_of(line) > after]
        self._walks[group] = _Walk(sorted(in_turn, key=place_of), whole, read_at, heard)
        if any(row["due_s"] < NEVER and not row["closed"] for row in rows):
            self.blocked.discard(group)
        else:
            self.blocked.add(group)
        return walked[:size], [line for line in lines if line.extra]

    async def _read(self, group: Group, after: Place | None, size: int) -> list[Any]:
        """Return the lines after a place, and those whose tasks are due first."""
        task_type, priority = group
        domain, key = after or ("", "")
        rows = await self._database.fetch(
            "next_lines",
            type=task_type,
            priority=priority,
            domain=domain,
            key=key,
            limit=size + 1,
            timeout=PAGE_TIMEOUT,
        )
        return [row for row in rows if not row["walked"] or (row["domain"], row["key"]) != after]
