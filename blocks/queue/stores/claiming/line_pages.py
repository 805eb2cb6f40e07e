"""Pages of the lines of a type and priority with many: a lane knows one at a time, and goes round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias

from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.stores.claiming.line_shares import LINES_LIMIT, ClaimLine, ClaimOrder

Group: TypeAlias = tuple[str, int]
"""A type and priority."""
Place: TypeAlias = tuple[str, str]
"""Domain and key of a line of a group."""
PAGE_LINES = (16, LINES_LIMIT[1])
"""Fewest and most lines of a page; in between, as many as the claim may take tasks."""
PAGE_TIMEOUT = 10.0
NEVER = float("inf")
place_of = attrgetter("domain", "key")


@dataclass(frozen=True, slots=True)
class _Page:
    """Some lines of a group, in the order of their turns."""

    after: Place | None = None
    """What it begins after. `None` means at the first line there is."""
    lines: Sequence[ClaimLine] = ()

    def place_before(self, number: int) -> Place | None:
        return place_of(self.lines[number - 1]) if number else self.after


class LinePages:
    """The page that is known of each group with many lines.

    Args:
        database: The queue's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pages: dict[Group, _Page] = {}
        self.blocked: set[Group] = set()
        """Groups whose last page held paused or closed lines only."""

    def __iter__(self) -> Iterator[Group]:
        return iter(self._pages)

    def __len__(self) -> int:
        return len(self._pages)

    def keep(self, groups: Iterable[Group]) -> None:
        """Know a page of each of ``groups``, and of no other."""
        self._pages = {group: self._pages.get(group, _Page()) for group in groups}
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
        rows = await self._read(group, after, size)
        if after is not None and sum(row["walked"] for row in rows) < size:
            rows += await self._read(group, None, size)
        found: dict[Place, ClaimLine] = {}
        for row in sorted(rows, key=lambda row: not row["walked"]):
            line = ClaimLine(*group, row["domain"], row["key"], row["due_s"], row["weight"])
            line.order, line.extra = ClaimOrder(*row[-len(ClaimOrder._fields) :]), not row["walked"]
            found.setdefault(place_of(line), line)
        lines = [known(line) for line in found.values()]
        walked = [line for line in lines if not line.extra][:size]
        self._pages[group] = _Page(after, walked)
        if any(row["due_s"] < NEVER and not row["closed"] for row in rows):
            self.blocked.discard(group)
        else:
            self.blocked.add(group)
        return [*walked, *(line for line in lines if line.extra)]

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
