"""How one claim is shared out among the lines of waiting tasks: by rank, then in turn and by weight.

The rank of a line is its priority, and more if its type asks that waiting counts. Lines of one rank are asked
by deficit round robin: in turn, each for as many tasks as its weight. What is left of the room once all have
been asked is shared out once more, so that none of it stays unused. A line whose turn the end of a claim has
cut short is the first in the next, for the rest of its turn.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple, TypeAlias

LineId: TypeAlias = tuple[str, int, str, str]
"""Type, priority, domain and key. Domain and key are empty if the tasks have none."""
Stream: TypeAlias = str
"""What a room is for: the tasks of a type, or those of them that one organ runs."""

Place: TypeAlias = tuple[str, str, int]
"""Domain, key and priority of a line."""

LINES_LIMIT = (64, 256)
"""Most lines of one claim: of a small one, and of one of at least so many tasks. Each line costs about 4 µs,
and there may be thousands."""
RAISED_LIMIT = 2**32
"""Most priorities by which a line is raised: as many as there are."""
FIRST: Place = ("", "", -(2**31) - 1)
"""Before every line."""
STREAMS_KEPT = 10_000
"""Most streams whose turn is remembered."""
IDLE_SHARE = 4
"""Idle lines get one in so many places of a room in which others hold due tasks."""


class ClaimOrder(NamedTuple):
    """What the policy of a type says about the order in which its tasks are claimed."""

    aging_s: float | None = None
    """Seconds of waiting that count as one more priority."""
    affinity_s: float | None = None
    """Tasks of one key run together; those of others may wait for so many seconds."""
    affinity_keys: int = 2
    """Keys that a lane claims at a time, with ``affinity_s``."""
    earliest_deadline: bool = False
    """Of the tasks of a line, the one that expires first is claimed first."""
    timeout_by_deadline: bool = False
    """An attempt is stopped when its task expires."""


PLAIN = ClaimOrder()


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
    weight: int = 1
    """How many tasks it gets when others get one."""
    order: ClaimOrder = PLAIN
    raised: int = 0
    """How many priorities higher it counts, because its tasks have waited."""
    after: tuple[datetime, str] | None = None
    """Place after which the next claim begins. `None` means at the head. Index entries of claimed tasks stay
    until no snapshot can see them. A claim that begins after them is as cheap as the first."""
    exhausted: bool = False
    """True if the last claim found fewer tasks than it asked for."""
    limited: bool = False
    """True if a limit has allowed none of its tasks since the last scan."""
    crowded_out: bool = False
    """True if that was because others took what a limit had left for them together. It keeps its turn."""
    was_limited: bool = False
    """True if that was so before the last scan."""
    held: bool = False
    """True if the turn of its key has not come."""
    extra: bool = False
    """True if it is known because its first task has been due for longest, not because it is its turn."""
    served: bool = False
    """True if it has had its turn since it was read."""
    seen_at: float = 0.0
    """When it was last known to hold a task, by the clock of this process."""
    id: LineId = field(init=False)
    """What tells it from all others."""

    def __post_init__(self) -> None:
        self.id = (self.type, self.priority, self.domain, self.key)

    @property
    def idle(self) -> bool:
        """Return True if it is not expected to hold a due task now, or none that its limits allow."""
        return (self.exhausted and not self.crowded_out) or self.due_s > 0

    @property
    def empty(self) -> bool:
        """Return True if it is not expected to hold a due task now, whatever its limits allow."""
        return self.idle and not self.limited

    @property
    def rank(self) -> int:
        """Return the priority that it counts as."""
        return self.priority + self.raised

    @property
    def place(self) -> Place:
        """Return its place among the lines of one rank, by which they have turns."""
        return self.domain, self.key, self.priority


def by_rank(lines: Iterable[ClaimLine]) -> list[ClaimLine]:
    """Return the lines, highest rank first, after raising those whose types ask that waiting counts.

    All lines of a type and priority are raised alike, by the age of their oldest task. Otherwise the key with
    the oldest backlog would come before the other keys of its own priority.
    """
    lines = list(lines)
    steps: dict[tuple[str, int], int] = {}
    for line in lines:
        # What waits because of a limit is not late for want of priority.
        if line.order.aging_s is not None and line.due_s <= 0 and not line.was_limited:
            group = (line.type, line.priority)
            steps[group] = max(steps.get(group, 0), int(min(-line.due_s / line.order.aging_s, RAISED_LIMIT)))
    for line in lines:
        line.raised = steps.get((line.type, line.priority), 0)
    return sorted(lines, key=lambda line: -line.rank)


def by_type(task_type: str, domain: str) -> Stream:
    """Return the stream of a task where all tasks of a type share one room."""
    return task_type


class _Turn:
    """The lines of one stream and rank in a claim, in the order of their turns, each with its quota."""

    __slots__ = ("_owed", "denied", "last", "name", "wanted")

    def __init__(
        self, name: tuple[Stream, int], last: tuple[Place, int], wanted: list[tuple[ClaimLine, int]]
    ) -> None:
        self.name = name
        self.last = last
        """The line whose turn was last, and how many tasks are left of that turn."""
        self.wanted = wanted
        self.denied = False
        """True if a line got less than it wants."""
        self._owed = last

    def begin(self, line: ClaimLine) -> int:
        """Return how many tasks a line has in its next turn."""
        place, owed = self._owed
        self._owed = (FIRST, 0)
        return min(owed, line.weight) if owed and line.place == place else line.weight


class LineShares:
    """Shares claims out among lines, and remembers whose turn it is."""

    def __init__(self) -> None:
        self._claims = 0
        self._last: dict[tuple[Stream, int], tuple[Place, int]] = {}
        """The line whose turn was last, and how many tasks are left of that turn; by stream and rank."""
        self._turns: list[_Turn] = []
        """Of the last claim, by rank."""
        self._granted: dict[Stream, None] = {}
        """Streams that were granted some of what was not enough for all, the last one last."""

    def of_claim(
        self,
        lines: Sequence[ClaimLine],
        limit: int,
        room: Callable[[Stream], int],
        stream: Callable[[str, str], Stream],
    ) -> list[tuple[ClaimLine, int]]:
        """Return the lines to claim from, highest rank first, each with the most tasks to take.

        Args:
            lines: All lines, highest rank first.
            limit: Most tasks of the claim.
            room: Returns the most tasks to take of a stream.
            stream: Returns the stream of a type and domain. The lines of a stream share its room.
        """
        self._claims += 1
        self._turns.clear()
        most = min(max(limit, LINES_LIMIT[0]), LINES_LIMIT[1])
        rooms: dict[Stream, int] = {}
        levels: list[dict[Stream, list[ClaimLine]]] = []
        for _, level in groupby(lines, attrgetter("rank")):
            by_stream: dict[Stream, list[ClaimLine]] = {}
            for line in level:
                name = stream(line.type, line.domain)
                if name not in rooms:
                    # Not more than the claim takes: otherwise it would end before all have had their turn.
                    rooms[name] = min(room(name), limit)
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
                turn = (name, mine[0].rank)
                before = self._last.get(turn, (FIRST, 0))
                chosen = list(self._of_stream(name, mine, rooms[name], max(most // streams, 1)))
                self._turns.append(_Turn(turn, before, chosen))
                wanted += chosen
                # A lower line of the stream has its turn in two cases: when those above hold less than was
                # asked for, or when the limit of the claim keeps their sum within the room.
                if rooms[name] < limit and not all(line.idle or line.limited for line in mine):
                    served.add(name)
        if len(wanted) > most:
            # Lines that held nothing are left out first: the next scan finds what has been added to them.
            places = sorted(range(len(wanted)), key=lambda place: (wanted[place][0].idle, place))
            for place in places[most:]:
                wanted[place][0].served = False
            wanted = [wanted[place] for place in sorted(places[:most])]
        return wanted

    def within(
        self, wanted: Sequence[tuple[ClaimLine, int]], take: Callable[[ClaimLine], bool]
    ) -> dict[LineId, int]:
        """Share out anew what was wanted last, because together it is more than limits allow.

        The turns are the same. A line that gets none of what it wants keeps its turn for the next claim.

        Args:
            wanted: Of what `of_claim` returned last.
            take: Takes one task of a line from what limits allow; False if they allow no more of it.

        Returns:
            How many tasks of each line were taken.
        """
        quotas = {line.id: quota for line, quota in wanted}
        taken = dict.fromkeys(quotas, 0)
        # Lines that are expected to be empty come last: otherwise they would keep the room of the others.
        for empty in (False, True):
            for _, level in groupby(self._turns, lambda turn: turn.name[1]):
                waiting = [
                    (
                        turn,
                        deque(line for line, _ in turn.wanted if line.empty == empty and line.id in quotas),
                    )
                    for turn in level
                ]
                self._take_turns(waiting, quotas, taken, take)
        for turn in self._turns:
            if turn.denied:
                self._last[turn.name] = turn.last
        return taken

    def _take_turns(
        self,
        waiting: list[tuple[_Turn, deque[ClaimLine]]],
        quotas: Mapping[LineId, int],
        taken: dict[LineId, int],
        take: Callable[[ClaimLine], bool],
    ) -> None:
        """Let the streams of one rank take turns, and the lines of each, until no line gets any more."""
        last_granted = {stream: number for number, stream in enumerate(self._granted)}
        open_turns = deque(sorted(waiting, key=lambda one: last_granted.get(one[0].name[0], -1)))
        while open_turns:
            turn, lines = open_turns[0]
            if not lines:
                open_turns.popleft()
                continue
            line = lines.popleft()
            left = turn.begin(line)
            before = taken[line.id]
            while left and taken[line.id] < quotas[line.id] and take(line):
                taken[line.id] += 1
                left -= 1
            turn.denied |= taken[line.id] < quotas[line.id] and left > 0
            if taken[line.id] > before:
                turn.last = (line.place, left)
                self._note_granted(turn.name[0])
                open_turns.rotate(-1)
                if not left:
                    lines.append(line)

    def _note_granted(self, stream: Stream) -> None:
        self._granted.pop(stream, None)
        if len(self._granted) >= STREAMS_KEPT:
            del self._granted[next(iter(self._granted))]
        self._granted[stream] = None

    def _of_stream(
        self, stream: Stream, lines: list[ClaimLine], room: int, most: int
    ) -> Iterable[tuple[ClaimLine, int]]:
        """Share a room out by weight among the lines of one stream and rank."""
        if len(lines) == 1:
            return [(lines[0], room)]
        lines.sort(key=attrgetter("place"))
        turn = (stream, lines[0].rank)
        place, owed = self._last.get(turn, (FIRST, 0))
        find = bisect_left if owed else bisect_right
        first = find(lines, place, key=attrgetter("place"))
        in_turn = [*lines[first:], *lines[:first]]
        busy = [line for line in in_turn if not line.idle and not line.extra]
        idle = [line for line in in_turn if line.idle and not line.extra]
        # Not more than there are idle ones: a line that is never short of old tasks would have a turn in each
        # claim, among others that have one in many.
        extra = [line for line in in_turn if line.extra and not line.idle][: len(idle)]
        places = min(room, most)
        if not busy and not extra:
            return zip(idle[:places], _shares(room, [1] * len(idle[:places])).of_lines, strict=True)
        # One task each tells whether they hold some again; then they share with the others.
        idle = idle[: places // IDLE_SHARE]
        asked = [*busy, *extra][: places - len(idle)]
        # Its weight may be less by now.
        owed = min(owed, asked[0].weight) if asked[0].place == place else 0
        shares = _shares(room - len(idle), [line.weight for line in asked], owed)
        last = asked[shares.last]
        if shares.rounds and len(asked) < len(busy):
            last = asked[-1]
        if len(self._last) >= STREAMS_KEPT:
            self._last.clear()
        self._last[turn] = (last.place, shares.owed if last is asked[shares.last] else 0)
        served = [(line, share) for line, share in zip(asked, shares.of_lines, strict=True) if share]
        for line, _ in served:
            line.served = True
        last.served = bool(shares.rounds) or not shares.owed
        return [*served, *((line, 1) for line in idle)]


@dataclass(frozen=True, slots=True)
class _Shares:
    of_lines: list[int]
    rounds: int
    """How many turns each line had, not counting those of the last, unfinished round."""
    last: int
    """Number of the line whose turn was last."""
    owed: int
    """How many tasks of that turn are left."""


def _shares(room: int, weights: Sequence[int], owed: int = 0) -> _Shares:
    """Share a room out among lines with these weights. The first is still owed so much of an earlier turn."""
    shares = [0] * len(weights)
    turn = 0
    if owed:
        shares[0] = min(owed, room)
        if owed >= room:
            return _Shares(shares, 0, 0, owed - room)
        room -= owed
        turn = 1 % len(weights)
    rounds, room = divmod(room, sum(weights))
    shares = [share + rounds * weight for share, weight in zip(shares, weights, strict=True)]
    last, owed = (turn - 1) % len(weights), 0
    while room:
        share = min(weights[turn], room)
        shares[turn] += share
        room -= share
        last, owed = turn, weights[turn] - share
        turn = (turn + 1) % len(weights)
    return _Shares(shares, rounds, last, owed)
