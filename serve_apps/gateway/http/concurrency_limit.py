"""Limit of the requests of one kind that are under way at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from organism_flows.serve_apps.gateway.http.problems import RequestRefused


class ConcurrencyLimit:
    """Counter of requests that take long and keep a connection each.

    Args:
        per_holder: Most requests of one token.
        overall: Most requests of all tokens together.
        doing: What the requests do, as a verb for the error "... requests of this token ``doing`` already".
        next_step: What a client can do when the limit is reached.
    """

    def __init__(self, per_holder: int, overall: int, doing: str, next_step: str) -> None:
        self._per_holder = per_holder
        self._overall = overall
        self._doing = doing
        self._next_step = next_step
        self._held: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Return the number of requests under way."""
        return self._held.total()

    @contextmanager
    def taken(self, holder: str) -> Iterator[None]:
        """Count one more request of ``holder`` for as long as the block runs.

        Raises:
            RequestRefused: The limit is reached.
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
