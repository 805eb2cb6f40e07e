"""How many requests of a kind may be under way at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from organism_flows.serve_apps.gateway.http.problems import RequestRefused


class ConcurrencyLimit:
    """Counts requests that take long, each of which keeps a connection.

    Args:
        per_holder: Most of one token.
        overall: Most of all together.
        doing: What they do: "... requests of this token ``doing`` already".
        next_step: What to do when there are as many as may be.
    """

    def __init__(self, per_holder: int, overall: int, doing: str, next_step: str) -> None:
        self._per_holder = per_holder
        self._overall = overall
        self._doing = doing
        self._next_step = next_step
        self._held: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many are under way."""
        return self._held.total()

    @contextmanager
    def taken(self, holder: str) -> Iterator[None]:
        """Count one more of ``holder`` for as long as the block runs.

        Raises:
            Refused: There are as many as may be.
        """
        if self._held[holder] >= self._per_holder or self._held.total() >= self._overall:
            raise RequestRefused(
                "too-many",
                f"{self._held[holder]:,} requests of this token {self._doing} already, "
                f"{self._held.total():,} of all",
                next_step=self._next_step,
                headers={"Retry-After": "1"},
            )
        self._held[holder] += 1
        try:
            yield
        finally:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]
