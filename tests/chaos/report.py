"""What a chaos run showed: violations, and how each kill was recovered from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import inf
from typing import Any
from uuid import UUID

from tests.chaos.chaos import Killed, Run
from tests.chaos.recovery import Recovery, Timeline
from tests.chaos.victims import VICTIMS
from tests.support.history import History, charged_by_mistake, overlaps, violations

ALLOWANCE_S = 5.0
"""Recovery is promised within the lease and so many seconds."""
GAP_S = 20.0
"""Longest time in which no short task is settled: a replica starts within 10 s, and 10 s are allowed."""
OVERLAP_S = 10.0
"""Longest time that two runs of one task may go on at once: within it, a replica learns of a lost claim."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One kill and what followed."""

    killed: Killed
    recovery: Recovery
    alone: bool
    """Nothing else died while it was recovered from, and what died before had been recovered from."""
    found_out_s: float | None
    """For poison: seconds from its first run until it had become a dead letter."""


@dataclass(frozen=True, slots=True)
class UnitsDone:
    """What became of the units of tasks that save each."""

    tasks: int
    units: int
    again: int
    """Units that were done more than once, each time counted."""
    in_flight: int
    """Units in flight at the kills, summed up."""

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks of {self.units} units in all: {self.again} units were done again; "
            f"{self.in_flight} were in flight at the kills"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """One run, judged."""

    run: Run
    history: History
    violations: list[str]
    measured: list[Measured]
    standstills: list[str]
    """Stretches too long without a short task settled, a line each."""
    claims_p99_s: float
    """99 % of all claims lasted less."""
    units: UnitsDone | None = None
    """`None`: there were none."""

    @property
    def slow(self) -> list[str]:
        """Kills that were not recovered from in time, a line each; only those that were alone are judged."""
        limit = self.run.lease_s + ALLOWANCE_S
        return [
            f"{m.killed.kind} ({m.killed.victim}): lost tasks taken back after {m.recovery.back_s:.1f} s, "
            f"flow back after {_seconds(m.recovery.flow_s)} s; the limit is {limit:g} s"
            for m in self.measured
            if m.alone and not VICTIMS[m.killed.kind].ends_everything
            if m.recovery.seconds is None or m.recovery.seconds > limit
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything but the history."""
        run = self.run
        rows = self.history.tasks.values()
        causes = Counter(c.cause for charges in self.history.charges.values() for c in charges)
        return {
            "plan": asdict(run.plan),
            "lease_s": run.lease_s,
            "cores": os.cpu_count(),
            "seconds": round(run.ended - run.started, 1),
            "tasks": dict(Counter(f"{row['type']}: {row['status']}" for row in rows)),
            "attempts_not_completed": dict(causes),
            "claims_p99_s": round(self.claims_p99_s, 2),
            "overlapping_runs": len(overlaps(self.history)),
            "charged_by_mistake": charged_by_mistake(self.history, run.expected),
            "dispatches": run.dispatches,
            "incidents": run.incidents,
            "violations": self.violations,
            "standstills": self.standstills,
            "slow": self.slow,
            "units": self.units and asdict(self.units),
            "kills": [self._kill(m) for m in self.measured],
        }

    def _kill(self, measured: Measured) -> dict[str, Any]:
        found = {
            **asdict(measured.killed),
            "at": measured.killed.at - self.run.started,
            "alone": measured.alone,
            **asdict(measured.recovery),
            "found_out_s": measured.found_out_s,
        }
        return {name: round(value, 2) if isinstance(value, float) else value for name, value in found.items()}


def judge(run: Run, history: History, *, before_s: float, gap_s: float = GAP_S) -> Report:
    """Check a run and measure its recoveries; see `Timeline` for ``before_s``, `GAP_S` for ``gap_s``."""
    timeline = Timeline(history, before_s=before_s)
    found = violations(history, run.expected, excused=run.replica_deaths, overlap_s=OVERLAP_S)
    done = _units(run, history)
    if done and done.again > done.in_flight:
        found.append(str(done))
    return Report(
        run,
        history,
        found,
        list(_measure(run.killed, history, timeline)),
        list(_standstills(run, timeline, gap_s)),
        timeline.claims_lasted(0.99),
        done,
    )


def _units(run: Run, history: History) -> UnitsDone | None:
    """Count units by what handlers wrote down."""
    tasks = {task: expected.units for task, expected in run.expected.items() if expected.units}
    if not tasks:
        return None
    kills = sorted(killed.at for killed in run.killed if not VICTIMS[killed.kind].planned)
    again = in_flight = 0
    for task in tasks:
        runs = history.runs.get(task, [])
        done = [unit for one in runs for unit in one.units]
        again += len(done) - len(set(done))
        for one in runs:
            begun, seen = one.begun or inf, one.seen or 0.0
            # One that was killed was in flight at the first kill after its last sign of life.
            end = one.ended or next((kill for kill in kills if kill >= seen), seen)
            in_flight += sum(begun <= kill <= end for kill in kills)
    return UnitsDone(len(tasks), sum(tasks.values()), again, in_flight)


def _standstills(run: Run, timeline: Timeline, gap_s: float) -> Iterable[str]:
    for begin, end in timeline.standstills(gap_s, run.fed_until):
        within = [killed for killed in run.killed if begin - ALLOWANCE_S < killed.at < end]
        # Of several on top of one another each takes its time.
        if len(within) > 1 or any(VICTIMS[killed.kind].ends_everything for killed in within):
            continue
        after = ", ".join(killed.kind for killed in within) or "nothing"
        yield (
            f"no short task was settled for {end - begin:.1f} s, {begin - run.started:.0f} s into the run, "
            f"after: {after}"
        )


def _measure(kills: list[Killed], history: History, timeline: Timeline) -> Iterable[Measured]:
    quiet = 0.0
    for index, killed in enumerate(kills):
        recovery = timeline.after(killed.at)
        over = inf if recovery.seconds is None else killed.at + recovery.seconds
        found_out = None
        if killed.kind == "poison":
            finished = history.tasks[UUID(killed.victim)]["finished_at"]
            found_out = finished.timestamp() - killed.at if finished else None
            over = max(over, killed.at + (inf if found_out is None else found_out))
        following = kills[index + 1].at if index + 1 < len(kills) else inf
        alone = quiet < killed.at and (over < following or following == inf)
        yield Measured(killed, recovery, alone, found_out)
        quiet = max(quiet, min(over, following))


def _seconds(value: float | None) -> str:
    return "∞" if value is None else f"{value:.1f}"
