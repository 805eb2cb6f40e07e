"""Timeouts of all handler calls by one timer, on a clock that stands still while the event loop is blocked.

A timer for each call cost as much as a third of a small task. And when one handler blocks the loop, by
`time.sleep` or by computing, the others cannot go on. That time must not count against them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

TICK_S = 0.25
"""Longest wait of the timer, in seconds, so that a blocked loop is noticed."""
BLOCKED_S = 0.1
"""Delay of the timer, in seconds, above which the loop counts as blocked."""

T = TypeVar("T")


class Timeouts(Generic[T]):
    """Calls back for every item that is not discarded in time. Use it on the event loop only.

    Args:
        on_due: Called with an item when its time is up. The item is removed before.
    """

    def __init__(self, on_due: Callable[[T], None]) -> None:
        self._on_due = on_due
        self._due: dict[float, dict[T, float]] = {}
        """When each item is due, by timeout: with the same timeout, the first to start is due first."""
        self._timer: asyncio.TimerHandle | None = None
        self._planned = 0.0
        self._blocked_s = 0.0

    def add(self, item: T, timeout_s: float, now: float) -> None:
        """Call back about ``item`` in ``timeout_s`` seconds.

        Args:
            item: The item.
            timeout_s: Seconds from ``now``.
            now: `time.monotonic()`. Not the loop's own time: uvloop's stands still between two polls.
        """
        due = now - self._blocked_s + timeout_s
        line = self._due.get(timeout_s)
        if line is None:
            line = self._due[timeout_s] = {}
        line[item] = due
        if self._timer is None or now + timeout_s < self._planned:
            self._set(now, timeout_s)

    def discard(self, item: T, timeout_s: float) -> None:
        """Remove ``item``, which was added with ``timeout_s``; do nothing if it is not there."""
        line = self._due.get(timeout_s)
        if line is not None:
            line.pop(item, None)
            if not line:
                del self._due[timeout_s]

    def _set(self, now: float, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = min(max(delay_s, 0.001), TICK_S)
        self._planned = now + delay_s
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = time.monotonic()
        if now - self._planned > BLOCKED_S:
            self._blocked_s += now - self._planned
        clock = now - self._blocked_s
        late: list[tuple[T, float]] = []
        wait_s = TICK_S
        for timeout_s, line in self._due.items():
            for item, due in line.items():
                if due > clock:
                    wait_s = min(wait_s, due - clock)
                    break
                late.append((item, timeout_s))
        for item, timeout_s in late:
            if item in self._due.get(timeout_s, ()):  # the callback of an earlier item may have removed it
                self.discard(item, timeout_s)
                self._on_due(item)
        # Without items there is no timer.
        if self._due and self._timer is None:
            self._set(now, wait_s)
