"""What lanes hold, as a claim under limits counts it.

To read what a lane itself holds costs each of its claims as much as all else that limits do. So a lane
remembers that, and reads what others hold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, NamedTuple, TypeAlias

from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.models.limits import LimitKind
from organism_flows.blocks.queue.stores.claiming.line_shares import LineId

HELD_TIMEOUT = 10.0
Holding: TypeAlias = Callable[[], "Set[int] | None"]
"""Returns the claims of a lane that are neither settled nor handed back. `None` if it may hold others."""
Running: TypeAlias = "defaultdict[str, Counter[str]]"
"""How many of the tasks that lanes hold count, by limit and key."""


def unknown() -> None:
    """Return that it is not known what a lane holds."""


class Scope(NamedTuple):
    """What counts against a limit."""

    kind: LimitKind
    types: list[str]
    by_key: bool


def scopes_of(limits: Iterable[Mapping[str, Any]]) -> dict[str, Scope]:
    """Return what counts against each of these limits, by name."""
    return {one["name"]: Scope(one["kind"], one["types"], one["by_key"]) for one in limits}


class Held:
    """What lanes hold, as one of them knows it.

    Args:
        lane: Id of the lane.
        holding: Returns what it holds.
    """

    def __init__(self, lane: str = "", holding: Holding = unknown) -> None:
        self._lane = lane
        self._holding = holding
        self._mine: dict[int, LineId] = {}
        """Lines of the tasks that the lane has claimed, by claim."""
        self._known = False
        """True if these are all that the lane holds."""

    def forget_ended(self) -> None:
        """Forget what the lane holds no more. Call it when all that was claimed is in `Holding`."""
        holding = self._holding()
        if holding is not None:
            # Not a difference of sets, which looks at all that the lane holds, limits or not.
            for claim in [claim for claim in self._mine if claim not in holding]:
                del self._mine[claim]
        self._known = holding is not None and len(self._mine) == len(holding)

    def add(self, claims: Iterable[int], lines: Iterable[LineId]) -> None:
        """Remember what the lane has claimed, and the line of each task."""
        if self._holding is not unknown:
            self._mine.update(zip(claims, lines, strict=True))

    async def running(self, session: Session, scopes: Mapping[str, Scope]) -> Running:
        """Return how many of the tasks that lanes hold count for each limit on what runs."""
        counted: Running = defaultdict(Counter)
        scopes = {name: scope for name, scope in scopes.items() if scope.kind == "running"}
        if not scopes:
            return counted
        besides = self._lane if self._known else ""
        types, keys = await session.fetchrow("limit_held", besides=besides, timeout=HELD_TIMEOUT)
        if besides:
            types += [line[0] for line in self._mine.values()]
            keys += [line[3] for line in self._mine.values()]
        for name, scope in scopes.items():
            held = keys
            if scope.types:
                held = [key for kind, key in zip(types, keys, strict=True) if kind in scope.types]
            counted[name] = Counter(held if scope.by_key else {"": len(held)})
        return counted
