"""What limits allow one claim, shared out among its lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import accumulate
from math import floor
from typing import TypeAlias

from organism_flows.blocks.queue.stores.claiming.line_shares import ClaimLine, LineId

WHOLE = 1e-6
"""What a level may lack of a whole task: it is a sum of fractions."""
Bucket: TypeAlias = tuple[str, str]
"""Name of a limit and key, empty where the limit is not by key: what one amount is for."""
Wanted: TypeAlias = "list[tuple[ClaimLine, int]]"
"""Lines to claim from, each with the most tasks to take."""
Share: TypeAlias = "Callable[[Wanted, Callable[[ClaimLine], bool]], dict[LineId, int]]"
"""Shares out by turns what is asked for line by line: see `LineShares.within`."""


@dataclass(slots=True)
class Allowance:
    """What limits allow one claim.

    Args:
        rooms: What is left of each bucket: tasks, or units where it is in ``amounts``.
        buckets: What a task of each line counts against. One that is gone by now allows everything.
        shared: Names of the limits that are not by key.
        amounts: Amounts of the limits on cost.
        costs: What the next tasks of each line are expected to spend, of lines with a limit on cost. There
            are no others to claim.
    """

    rooms: dict[Bucket, float]
    buckets: Mapping[LineId, Sequence[Bucket]]
    shared: Set[str]
    amounts: Mapping[Bucket, float]
    costs: Mapping[LineId, Sequence[float]]
    _taken: dict[LineId, int] = field(default_factory=dict)

    def share_out(self, wanted: Wanted, share: Share) -> dict[LineId, int]:
        """Return how many tasks may be taken of each line, and take them from the rooms."""
        most = {line.id: self._most(line.id, quota) for line, quota in wanted}
        left = dict(self.rooms)
        for line, quota in wanted:
            known = self.known(line.id, quota)
            for bucket in self.buckets[line.id]:
                if bucket in left:
                    # Where others wait for the same room, one that gets less than it wants keeps its turn.
                    tasks = known if bucket[0] in self.shared else most[line.id]
                    left[bucket] -= self._units(line.id, bucket, tasks)
        if min(left.values(), default=0) >= -WHOLE:
            self.rooms = left
            return most
        return share(wanted, self._take_one)

    def known(self, line: LineId, quota: int) -> int:
        """Return how many tasks there are to take of a line, as far as it matters."""
        return min(quota, len(self.costs.get(line, ()))) if self._is_costly(line) else quota

    def short(self, line: LineId) -> list[Bucket]:
        """Return what has no room for one more task of a line. Call it for lines of which none is taken."""
        return [
            bucket
            for bucket in self.buckets[line]
            if bucket in self.rooms and self.rooms[bucket] + WHOLE < self._units(line, bucket, 1)
        ]

    def _is_costly(self, line: LineId) -> bool:
        return bool(self.amounts) and any(bucket in self.amounts for bucket in self.buckets[line])

    def _most(self, line: LineId, quota: int) -> int:
        """How many tasks of the line fit, if none is taken of the others."""
        most = self.known(line, quota)
        for bucket in self.buckets[line]:
            if bucket not in self.rooms:
                continue
            room = self.rooms[bucket]
            if bucket in self.amounts:
                most = min(most, sum(total <= room + WHOLE for total in accumulate(self.costs.get(line, ()))))
            elif room < most:
                most = max(floor(room + WHOLE), 0)
        return most

    def _units(self, line: LineId, bucket: Bucket, tasks: int) -> float:
        """What the first tasks of the line take from a bucket."""
        return sum(self.costs.get(line, ())[:tasks]) if bucket in self.amounts else tasks

    def _take_one(self, line: ClaimLine) -> bool:
        """Take the next task of a line from the rooms. False if there is none, or no room for it."""
        taken = self._taken.get(line.id, 0)
        if taken >= self.known(line.id, taken + 1):
            return False
        needs = [
            (bucket, self.costs[line.id][taken] if bucket in self.amounts else 1.0)
            for bucket in self.buckets[line.id]
            if bucket in self.rooms
        ]
        if any(self.rooms[bucket] + WHOLE < units for bucket, units in needs):
            return False
        for bucket, units in needs:
            self.rooms[bucket] -= units
        self._taken[line.id] = taken + 1
        return True
