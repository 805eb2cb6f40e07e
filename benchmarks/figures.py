"""What a part of the benchmarks hands back: figures, each with its target, and the samples behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str = "x"
    """``x`` is a ratio."""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    """What it was computed from, with the spread."""

    @property
    def target(self) -> str:
        """The target as text; empty when there is none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g} {self.unit}"
        return f"≤ {self.at_most:g} {self.unit}" if self.at_most is not None else ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None when there is none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.value <= self.at_most if self.at_most is not None else None

    def row(self) -> list[str]:
        """Cells of a table: figure, measured, target, met."""
        met = {True: "yes", False: "**no**", None: ""}[self.met]
        return [self.name, f"{number(self.value)} {self.unit}", self.target, met]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "target": self.target, "met": self.met}


@dataclass(slots=True)
class Result:
    """What a part measured."""

    figures: list[Figure]
    samples: dict[str, Any] = field(default_factory=dict)
    """Plain data for the plots and for whoever wants to compute another figure."""


class Unmeasured(Exception):
    """A measurement failed; the message says what happened."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of ``values`` do not exceed (nearest rank)."""
    if not values:
        raise Unmeasured("no samples")
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the middle two."""
    ordered = sorted(values)
    if not ordered:
        raise Unmeasured("no samples")
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: Sequence[float]) -> str:
    """Smallest to largest, for notes."""
    return f"{number(min(values))} to {number(max(values))}"


def number(value: float) -> str:
    """Three digits, or all of a number that has more before its point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
