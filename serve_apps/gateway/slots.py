"""How many requests may wait at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from serve_apps.gateway.problems import Refused


class WaitSlots:
    """Counts the requests that wait for tasks, each of which keeps a connection.

    Args:
        per_holder: Most of one token.
        overall: Most of all together.
    """

    def __init__(self, per_holder: int, overall: int) -> None:
        self._per_holder = per_holder
        self._overall = overall
        self._held: Counter[str] = Counter()

    @contextmanager
    def taken(self, holder: str) -> Iterator[None]:
        """Count one more of ``holder`` for as long as the block runs.

        Raises:
            Refused: There are as many as may be.
        """
        if self._held[holder] >= self._per_holder or self._held.total() >= self._overall:
            raise Refused(
                "too-many",
                f"{self._held[holder]:,} requests of this token wait already, {self._held.total():,} of all",
                next_step="wait for many tasks in one request, POST /api/tasks/wait",
                headers={"Retry-After": "1"},
            )
        self._held[holder] += 1
        try:
            yield
        finally:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]
