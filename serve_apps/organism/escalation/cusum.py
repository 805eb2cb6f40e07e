"""The drift valve, which sums up the latest drift scores of each type and domain.

One valve serves all replicas of an organism, so that the path of a task does not depend on the replica that
gets it. The sums are gone when the valve is replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from organism_flows.serve_apps.organism.config import Cusum

logger = logging.getLogger("ray.serve.organism")

KEPT = 10_000
"""Most sums that are kept. Above it, those that were not used for longest are forgotten."""
SHOWN = 100
"""Most sums that a status shows."""
CEILING = 2.0
"""Limit of a sum, as a multiple of ``bound``. Without it, ending an escalation would take as many good scores
as there were bad ones, however long ago."""

Key: TypeAlias = "tuple[str, str | None]"
"""Type and domain of a task."""


class Valve(Protocol):
    """The interface of the valve for a replica."""

    async def observe(
        self, cusum: Cusum, keys: Sequence[Key], scores: Sequence[float], counted: Sequence[bool]
    ) -> list[float]:
        """Do as `DriftValve.observe` does."""
        ...

    async def reset(self, task_type: str | None, domain: str | None) -> int:
        """Do as `DriftValve.reset` does."""
        ...

    async def sums(self) -> list[dict[str, Any]]:
        """Do as `DriftValve.sums` does."""
        ...


class DriftValve:
    """Sums by type and domain. The rule comes with every call, from the configuration in effect."""

    def __init__(self) -> None:
        self._sums: dict[Key, float] = {}

    async def observe(
        self, cusum: Cusum, keys: Sequence[Key], scores: Sequence[float], counted: Sequence[bool]
    ) -> list[float]:
        """Add the scores of some tasks in order, and return the sum of its type and domain after each.

        Args:
            cusum: The rule.
            keys: Type and domain of each task.
            scores: Drift score of each task.
            counted: True for each task whose score changes the sum. A task that is tried again has changed it
                before.
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
        """Set sums back to 0: those of a type, of a domain, of both, or all.

        Returns:
            The number of sums that were not 0.
        """
        chosen = [key for key in self._sums if task_type in (None, key[0]) and domain in (None, key[1])]
        for key in chosen:
            del self._sums[key]
        return len(chosen)

    async def sums(self) -> list[dict[str, Any]]:
        """Return the largest sums, as plain data: type, domain, sum."""
        largest = sorted(self._sums.items(), key=lambda item: -item[1])[:SHOWN]
        return [{"type": key[0], "domain": key[1], "sum": round(total, 6)} for key, total in largest]
