"""How one claim is shared out among the lines of waiting tasks: by priority, then in turn."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import TypeAlias
from uuid import UUID

LineId: TypeAlias = tuple[str, int, str, str]
"""Type, priority, domain and key. Domain and key are empty if the tasks have none."""
Stream: TypeAlias = str
"""What a room is for: the tasks of a type, or those of them that one organ runs."""

LINES_LIMIT = (64, 256)
"""Most lines of one claim: of a small one, and of one of at least so many tasks. Each line costs about 4 µs,
and there may be thousands."""
STREAMS_KEPT = 10_000
"""Most streams whose turn is remembered."""
IDLE_SHARE = 4
"""Idle lines get one in so many places of a room in which others hold due tasks."""


@dataclass(slots=True)
class ClaimLine:
    """The waiting tasks of one type, priority, domain and key."""

    type: str
    priority: int
    domain: str = ""
    key: str = ""
    due_s: float = 0.0
    """Seconds from the last scan until its first task is due. 0 or less means it is due; infinity means the
    line is empty, or paused."""
    after: tuple[datetime, UUID] | None = None
    """Place after which the next claim begins. `None` means at the head. Index entries of claimed tasks stay
    until no snapshot can see them. A claim that begins after them is as cheap as the first."""
    exhausted: bool = False
    """True if the last claim found fewer tasks than it asked for."""
    limited: bool = False
    """True if a limit has allowed none of its tasks since the last scan."""
    seen_at: float = 0.0
    """When it was last known to hold a task, by the clock of this process."""

    @property
    def idle(self) -> bool:
        """Return True if it is not expected to hold a due task now."""
        return self.exhausted or self.due_s > 0

    @property
    def id(self) -> LineId:
        """Return what tells the line from all others."""
        return self.type, self.priority, self.domain, self.key


class LineShares:
    """Shares claims out among lines, and remembers whose turn it is."""

    def __init__(self) -> None:
        self._claims = 0
        self._last: dict[tuple[Stream, int], tuple[str, str]] = {}
        """Domain and key of the line that was asked last, by stream and priority."""

    def of_claim(
        self,
        lines: Sequence[ClaimLine],
        limit: int,
        room: Callable[[Stream], int],
        stream: Callable[[str, str], Stream],
    ) -> list[tuple[ClaimLine, int]]:
        """Return the lines to claim from, highest priority first, each with the most tasks to take.

        Args:
            lines: All lines, highest priority first.
            limit: Most tasks of the claim.
            room: Returns the most tasks to take of a stream.
            stream: Returns the stream of a type and domain. The lines of a stream share its room.
        """
        self._claims += 1
        most = min(max(limit, LINES_LIMIT[0]), LINES_LIMIT[1])
        rooms: dict[Stream, int] = {}
        levels: list[dict[Stream, list[ClaimLine]]] = []
        for _, level in groupby(lines, attrgetter("priority")):
            by_stream: dict[Stream, list[ClaimLine]] = {}
            for line in level:
                name = stream(line.type, line.domain)
                if name not in rooms:
                    rooms[name] = room(name)
                if rooms[name] > 0:
                    by_stream.setdefault(name, []).append(line)
            levels.append(by_stream)
        streams = sum(held > 0 for held in rooms.values())
        wanted: list[tuple[ClaimLine, int]] = []
        served: set[Stream] = set()
        for by_stream in levels:
            names = list(by_stream)
            shift = self._claims * (most if len(names) > most else 1) % max(len(names), 1)
            for name in (*names[shift:], *names[:shift]):
                if name in served:
                    continue
                mine = by_stream[name]
                wanted += self._of_stream(name, mine, rooms[name], max(most // streams, 1))
                # A lower line of the stream has its turn in two cases: when those above hold less than was
                # asked for, or when the limit of the claim keeps their sum within the room.
                if rooms[name] < limit and not all(line.idle for line in mine):
                    served.add(name)
        if len(wanted) > most:
            # Lines that held nothing are left out first: the next scan finds what has been added to them.
            chosen = sorted(range(len(wanted)), key=lambda place: (wanted[place][0].idle, place))
            wanted = [wanted[place] for place in sorted(chosen[:most])]
        return wanted

    def _of_stream(
        self, stream: Stream, lines: list[ClaimLine], room: int, most: int
    ) -> Iterable[tuple[ClaimLine, int]]:
        """Share a room out evenly among the lines of one stream and priority."""
        if len(lines) == 1:
            return [(lines[0], room)]
        lines.sort(key=attrgetter("domain", "key"))
        turn = (stream, lines[0].priority)
        first = bisect_right(lines, self._last.get(turn, ("", "")), key=lambda line: (line.domain, line.key))
        in_turn = [*lines[first:], *lines[:first]]
        busy = [line for line in in_turn if not line.idle]
        idle = [line for line in in_turn if line.idle]
        places = min(room, most)
        if busy:
            # One task each tells whether they hold some again; then they share with the others.
            idle = idle[: places // IDLE_SHARE]
            asked = busy[: places - len(idle)]
            shares = [*_split(room - len(idle), asked), *((line, 1) for line in idle)]
        else:
            asked = idle[:places]
            shares = _split(room, asked)
        if len(self._last) >= STREAMS_KEPT:
            self._last.clear()
        self._last[turn] = (asked[-1].domain, asked[-1].key)
        return shares


def _split(room: int, lines: Sequence[ClaimLine]) -> list[tuple[ClaimLine, int]]:
    least, more = divmod(room, len(lines))
    return [(line, least + (place < more)) for place, line in enumerate(lines)]
