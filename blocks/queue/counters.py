"""Counters of lanes: numbers by name, sent with each heartbeat and summed over all lanes that ever existed.

A histogram is one number for each bucket, such as ``call_seconds.le.0.5``, and their sum,
``call_seconds.sum``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from math import isnan

BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Histogram:
    """Counts of values by bucket.

    Args:
        name: Prefix of the names of its numbers.
        bounds: Largest value of each bucket, in ascending order. A bucket without a bound comes last.
    """

    def __init__(self, name: str, bounds: tuple[float, ...]) -> None:
        self._names = [f"{name}.le.{bound:g}" for bound in bounds] + [f"{name}.le.+Inf"]
        self._sum_name = f"{name}.sum"
        self._bounds = bounds
        self._counts = [0] * len(self._names)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def figures(self) -> dict[str, float]:
        """Return the numbers, without those of empty buckets."""
        counted = {name: n for name, n in zip(self._names, self._counts, strict=True) if n}
        return {**counted, self._sum_name: self._sum}


class CallMeter:
    """Measurements of the calls of one lane."""

    def __init__(self) -> None:
        self.batch_size = Histogram("batch_size", BATCH_SIZES)
        self.call_seconds = Histogram("call_seconds", CALL_SECONDS)

    @property
    def figures(self) -> dict[str, float]:
        """Return the numbers of both histograms."""
        return {**self.batch_size.figures, **self.call_seconds.figures}


def buckets(
    figures: Mapping[str, float], name: str, bounds: tuple[float, ...]
) -> tuple[list[tuple[float, float]], float]:
    """Return a histogram as cumulative counts.

    Args:
        figures: Numbers of lanes, by name.
        name: Name of the histogram.
        bounds: Bounds that must be in the answer.

    Returns:
        For each bound, the number of values up to it; the last bound is infinity. And the sum of all values.
    """
    counts = dict.fromkeys((*map(float, bounds), float("inf")), 0.0)
    for key, number in figures.items():
        kind, _, limit = key.partition(".le.")
        if kind == name and limit:
            # Lanes of another version may have other bounds.
            with suppress(ValueError):
                if not isnan(bound := float(limit)):
                    counts[bound] = counts.get(bound, 0.0) + number
    reached, total = [], 0.0
    for bound in sorted(counts):
        total += counts[bound]
        reached.append((bound, total))
    return reached, figures.get(f"{name}.sum", 0.0)
