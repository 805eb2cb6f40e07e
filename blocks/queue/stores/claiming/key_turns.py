"""Which keys a lane claims of types whose tasks run together by key, so that a model is loaded once for many.

A lane has a few keys open at a time, and claims the tasks of those as they come. A key gets a place if one is
free, or once its oldest task has waited for `ClaimOrder.affinity_s`. So what a key costs at its beginning is
paid at most once in that time, and shared by all tasks that have come meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from organism_flows.blocks.queue.stores.claiming.line_shares import ClaimLine, ClaimOrder

TURNS_KEPT = 10_000
"""Most keys of a type whose last turn is remembered."""
NEVER = float("inf")


@dataclass(slots=True)
class _Turn:
    since: float
    used: float
    """When it last had a task that was due."""


class KeyTurns:
    """The keys that a lane has open.

    Args:
        clock: Returns seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[str, dict[str, _Turn]] = {}
        """By type and key."""
        self._ended: dict[str, dict[str, float]] = {}
        """When the last turn of a key ended, by type."""
        self.next_s = NEVER
        """Seconds from the last call of `open` until a key that waits has waited for long enough."""

    def keeps(self, line: ClaimLine) -> bool:
        """Return True if the key of ``line`` is open."""
        return line.key in self._open.get(line.type, ())

    def open(self, lines: Sequence[ClaimLine], age_s: float) -> list[ClaimLine]:
        """Return the lines to claim from, in their order: without those of keys that wait for a turn.

        Args:
            lines: All lines.
            age_s: Seconds since the lines were read.
        """
        self.next_s = NEVER
        by_type: dict[str, list[ClaimLine]] = {}
        for line in lines:
            line.held = False
            # Tasks without a key have nothing to load.
            if line.order.affinity_s is not None and line.key:
                by_type.setdefault(line.type, []).append(line)
        self._open = {kind: keys for kind, keys in self._open.items() if kind in by_type}
        for kind, mine in by_type.items():
            self._turn(kind, mine[0].order, mine, age_s)
        return [line for line in lines if not line.held]

    def _turn(self, kind: str, order: ClaimOrder, lines: Sequence[ClaimLine], age_s: float) -> None:
        assert order.affinity_s is not None
        now = self._clock()
        keys = self._open.setdefault(kind, {})
        ended = self._ended.setdefault(kind, {})
        first: dict[str, ClaimLine] = {}
        """Of each key with due tasks, the line with the oldest of the highest rank."""
        for line in lines:
            if not line.idle:
                best = first.setdefault(line.key, line)
                if (-line.rank, line.due_s) < (-best.rank, best.due_s):
                    first[line.key] = line
        for key in keys.keys() & first:
            keys[key].used = now
        for key in [key for key, turn in keys.items() if now - turn.used >= order.affinity_s]:
            self._end(keys, ended, key, now)
        waiting = sorted(
            (line for key, line in first.items() if key not in keys),
            # In turn: the key with the largest backlog would have the oldest task again and again.
            key=lambda line: (-line.rank, ended.get(line.key, -NEVER), line.due_s),
        )
        for line in waiting:
            if len(keys) >= order.affinity_keys:
                ripe_s = order.affinity_s - (age_s - line.due_s)
                # Keys that have nothing to do, or whose turn is over.
                begun = now - order.affinity_s
                over = [k for k, turn in keys.items() if k not in first or turn.since <= begun]
                if ripe_s > 0 or not over:
                    self._wait(ripe_s, order.affinity_s, keys.values(), now)
                    continue
                self._end(keys, ended, min(over, key=lambda k: (keys[k].used, keys[k].since)), now)
            keys[line.key] = _Turn(now, now)
        for line in lines:
            if line.key in keys:
                line.extra = False
            else:
                # `served`: else a page of lines is kept until they have had their turn.
                line.held = line.served = True

    def _wait(self, ripe_s: float, turn_s: float, turns: Iterable[_Turn], now: float) -> None:
        """Note when a key that waits may get a place."""
        ends = [turn_s - (now - (turn.used if ripe_s > 0 else turn.since)) for turn in turns]
        self.next_s = min([self.next_s, *([ripe_s] if ripe_s > 0 else []), *ends])

    @staticmethod
    def _end(keys: dict[str, _Turn], ended: dict[str, float], key: str, now: float) -> None:
        del keys[key]
        ended.pop(key, None)
        ended[key] = now
        while len(ended) > TURNS_KEPT:
            del ended[next(iter(ended))]
