"""What limits and weights promise, in plain Python: the part of the oracle that counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from organism_flows.blocks.queue import Limit

SLOT = 60
"""What is spent counts for the period and up to two of so many parts of it longer: it is kept by parts."""


@dataclass
class Begun:
    """A claim, and what it is charged for."""

    claim: int
    at: datetime
    type: str
    key: str
    units: float


@dataclass
class LimitsOracle:
    """The limits of a queue, and what counts against them. What runs is given by the caller."""

    limits: dict[str, Limit] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    _before: dict[str, int] = field(default_factory=dict)
    """The newest claim when each limit was set: time stands still, so the moment does not say it."""
    _begun: dict[int, Begun] = field(default_factory=dict)
    """By claim."""
    _beyond: list[Begun] = field(default_factory=list)
    """What was spent beyond the estimates, when it was reported."""

    def set(self, limit: Limit) -> None:
        self.limits[limit.name] = limit
        self._before[limit.name] = max(self._begun, default=0)

    def remove(self, name: str) -> None:
        del self.limits[name]

    def begun(self, claim: int, at: datetime, type: str, key: str, units: float) -> None:
        self._begun[claim] = Begun(claim, at, type, key, units)

    def spent(self, claim: int, at: datetime, units: float) -> None:
        """What a handler reported takes the place of the estimate; what is beyond that counts from now."""
        estimated = self._begun[claim]
        if units > estimated.units:
            self._beyond.append(Begun(claim, at, estimated.type, estimated.key, units - estimated.units))
        else:
            estimated.units = units

    def check_not_above(
        self, now: datetime, claimed: Iterable[tuple[str, str]], running: Counter[tuple[str, str]]
    ) -> None:
        """Of what was just claimed, by type and key, nothing is beyond a limit; what a limit came too late
        for may be."""
        for limit in self.limits.values():
            for key in {key for kind, key in claimed if self._is_on(limit, kind)}:
                used = self._used(limit, key, now, running, seconds=limit.period_s or 0)
                amount = limit.exceptions.get(key, limit.amount)
                assert used <= amount, f"{used} of {amount} of {limit.name} for {key or 'no key'}"

    def blocks(
        self, now: datetime, type: str, key: str, units: float, running: Counter[tuple[str, str]]
    ) -> bool:
        """Whether a limit may keep a task waiting. One that has room for it certainly may not."""
        for limit in self.limits.values():
            if not self._is_on(limit, type):
                continue
            period_s = limit.period_s or 0
            if limit.kind == "cost":
                period_s *= 1 + 2 / SLOT
            used = self._used(limit, key, now, running, seconds=period_s)
            match limit.kind:
                case "running":
                    full = used >= limit.exceptions.get(key, limit.amount)
                case "rate":
                    # It fills up again within the period, and has room for one of them sooner than that.
                    full = used > 0
                case "cost":
                    full = used + units > limit.amount
            if full:
                return True
        return False

    def _is_on(self, limit: Limit, type: str) -> bool:
        return not limit.types or type in limit.types

    def _used(
        self, limit: Limit, key: str, now: datetime, running: Counter[tuple[str, str]], *, seconds: float
    ) -> float:
        def counts(kind: str, other: str) -> bool:
            return self._is_on(limit, kind) and (other == key or not limit.by_key)

        if limit.kind == "running":
            return sum(tasks for (kind, other), tasks in running.items() if counts(kind, other))
        charges = [*self._begun.values(), *self._beyond]
        recent = [
            each
            for each in (charges if limit.kind == "cost" else self._begun.values())
            if counts(each.type, each.key)
            and (now - each.at).total_seconds() < seconds
            and each.claim > self._before[limit.name]
        ]
        return sum(each.units for each in recent) if limit.kind == "cost" else len(recent)

    def check_shares(self, taken: Mapping[str, int]) -> None:
        """Of keys that all had tasks throughout, each got its part by weight, to within one turn."""
        weights = {key: self.weights.get(key, 1) for key in taken}
        for key, tasks in taken.items():
            fair = sum(taken.values()) * weights[key] / sum(weights.values())
            assert abs(tasks - fair) <= weights[key], f"{key} got {tasks}, its part is {fair:g} of {taken}"
