"""Counters of an organ: how many tasks ended with which cause, and how long the last ones took."""

from __future__ import annotations

from collections import deque
from typing import Any, get_args

from organism_flows.blocks.queue.wire import Cause

SAMPLE = 1000
"""Number of times kept: the quantiles of the last tasks show how an organ is doing now."""


class OrganCounters:
    """Counters of one organ since its replica started. They outlive a reconfiguration."""

    def __init__(self) -> None:
        self.causes: dict[str, int] = dict.fromkeys(get_args(Cause), 0)
        self._elapsed_ms: deque[float] = deque(maxlen=SAMPLE)

    def add(self, cause: Cause, elapsed_ms: float) -> None:
        """Count a task that has ended."""
        self.causes[cause] += 1
        if elapsed_ms:  # else no handler saw it
            self._elapsed_ms.append(elapsed_ms)

    def report(self) -> dict[str, Any]:
        """Return the counters and the quantiles of the times, as plain data."""
        times = sorted(self._elapsed_ms)
        quantiles = {
            name: round(times[int(share * (len(times) - 1))], 3) if times else None
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        }
        return {**self.causes, "latency_ms": {**quantiles, "of_last": len(times)}}
