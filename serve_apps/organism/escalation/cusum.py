"""The drift valve: whether the drift scores of late are too much for a type and domain.

One valve serves all replicas of an organism, so that what becomes of a task does not hang on which of them it
meets; its sums are gone when it is replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from organism_flows.serve_apps.organism.config import Cusum

logger = logging.getLogger("ray.serve.organism")

KEPT = 10_000
"""Most sums kept; of more, those not asked for longest are forgotten."""
SHOWN = 100
CEILING = 2.0
"""A sum grows to so many bounds: else it would take as many good scores to end an escalation as it took bad
ones, however long ago."""

Key: TypeAlias = "tuple[str, str | None]"
"""Type and domain."""


class Valve(Protocol):
    """The valve as a replica sees it."""

    async def observe(
        self, cusum: Cusum, keys: Sequence[Key], scores: Sequence[float], counted: Sequence[bool]
    ) -> list[float]:
        """See `DriftValve.observe`."""
        ...

    async def reset(self, task_type: str | None, domain: str | None) -> int:
        """See `DriftValve.reset`."""
        ...

    async def sums(self) -> list[dict[str, Any]]:
        """See `DriftValve.sums`."""
        ...


class DriftValve:
    """Sums by type and domain. The rule comes with every question, from the configuration in effect."""

    def __init__(self) -> None:
        self._sums: dict[Key, float] = {}

    async def observe(
        self, cusum: Cusum, keys: Sequence[Key], scores: Sequence[float], counted: Sequence[bool]
    ) -> list[float]:
        """Take the scores of some tasks, in order; the sum of its type and domain after each.

        Args:
            keys: Type and domain of each task.
            scores: Its drift score.
            counted: Whether its score changes the sum; a task that is tried again has changed it before.
        """
        allowed = cusum.expected + cusum.slack
        sums = []
        for key, score, count in zip(keys, scores, counted, strict=True):
            total = self._sums.pop(key, 0.0)
            if count:
                total = min(max(0.0, total + (score - allowed)), CEILING * cusum.bound)
            if total:
                self._sums[key] = total
            sums.append(total)
        while len(self._sums) > KEPT:
            del self._sums[next(iter(self._sums))]
        return sums

    async def reset(self, task_type: str | None = None, domain: str | None = None) -> int:
        """Set the sums of a type, and of one of its domains, back to 0; without a type: all.

        Returns:
            How many there were.
        """
        chosen = [key for key in self._sums if task_type in (None, key[0]) and domain in (None, key[1])]
        for key in chosen:
            del self._sums[key]
        return len(chosen)

    async def sums(self) -> list[dict[str, Any]]:
        """The largest sums, as plain data: type, domain, sum."""
        largest = sorted(self._sums.items(), key=lambda item: -item[1])[:SHOWN]
        return [{"type": key[0], "domain": key[1], "sum": round(total, 6)} for key, total in largest]
