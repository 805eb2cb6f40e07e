"""The choice of the tasks that drift too much: by their own score, and by the valve of all replicas."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection
from typing import Any, Literal, TypeAlias

from organism_flows.blocks.queue.wire import Batch
from organism_flows.serve_apps.organism.config import Escalation
from organism_flows.serve_apps.organism.escalation.cusum import SHOWN, Key, Valve
from organism_flows.serve_apps.organism.handler_api.errors import describe

logger = logging.getLogger("ray.serve.organism")

TIMEOUT_S = 1.0
"""Longest wait for the valve, in seconds. An answer takes some milliseconds."""
PAUSE_S = 5.0
"""Pause before a valve that did not answer is asked again, in seconds. Meanwhile only the tasks' own scores
count."""

Path: TypeAlias = Literal["fast", "escalated", "fallback"]
"""Where a task went: to its organ, to the planner, or to its organ although it drifted, without a planner."""


class DriftMonitor:
    """Chooses the tasks to escalate, and counts the paths of all.

    Args:
        valve: The drift valve.
    """

    def __init__(self, valve: Valve) -> None:
        self.valve = valve
        self.paths: Counter[Path] = Counter()
        """Number of tasks by path, since the replica started."""
        self._sums: dict[Key, float] = {}
        """The sums as the valve last returned them."""
        self._trouble: str | None = None
        self._ask_from = 0.0

    async def among(self, batch: Batch, rules: Escalation | None) -> Collection[int]:
        """Return the positions of the tasks to escalate."""
        if rules is None:
            return ()
        own = rules.drift_score
        found = {n for n, score in enumerate(batch.drift_scores) if own is not None and score >= own}
        if rules.cusum is not None and time.monotonic() >= self._ask_from:
            keys = list(zip(batch.types, batch.domains, strict=True))
            first = [attempt == 1 for attempt in batch.attempts]
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    sums = await self.valve.observe(rules.cusum, keys, batch.drift_scores, first)
            except Exception as error:
                self._trouble = describe(error)
                self._ask_from = time.monotonic() + PAUSE_S
                logger.warning("the drift valve does not answer: %s", self._trouble)
            else:
                self._trouble = None
                found.update(n for n, total in enumerate(sums) if total > rules.cusum.bound)
                self._remember(dict(zip(keys, sums, strict=True)))
        return found

    def status(self, rules: Escalation | None) -> dict[str, Any]:
        """Return the rules, the sums as last seen here, and the number of tasks by path, as plain data."""
        total = sum(self.paths.values())
        return {
            "rules": rules.model_dump(mode="json") if rules else None,
            "paths": {path: self.paths[path] for path in ("fast", "escalated", "fallback")},
            "fast_share": round(self.paths["fast"] / total, 6) if total else None,
            "sums": [
                {"type": kind, "domain": domain, "sum": round(total, 6)}
                for (kind, domain), total in self._sums.items()
            ],
            "valve_trouble": self._trouble,
        }

    async def now(self, rules: Escalation | None) -> dict[str, Any]:
        """Return `status` with the sums of the valve; if it does not answer, with those last seen here."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return {**self.status(rules), "sums": await self.valve.sums()}
        except Exception as error:
            return {**self.status(rules), "valve_trouble": describe(error)}

    def _remember(self, sums: dict[Key, float]) -> None:
        for key, total in sums.items():
            self._sums.pop(key, None)
            if total:
                self._sums[key] = total
        while len(self._sums) > SHOWN:
            del self._sums[next(iter(self._sums))]
