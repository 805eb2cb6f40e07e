"""What a recorded run showed: the pick-up of short tasks by minute, each long task, and what was broken."""

from __future__ import annotations

import os
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from organism_flows.blocks.queue import Queue
from tests.chaos.long.recorded import Event, Recorded
from tests.chaos.report import OVERLAP_S
from tests.support.history import Expected, History, read_history, violations
from tests.support.sql import pool_of

AFTERMATH_S = 60.0
"""For so long after an event the rate of short tasks is taken."""
WINDOW_S = 5.0
RATE_KEPT = 0.5
"""Least share of the submitted rate in each window, while one of several replicas is replaced."""
P99_MS = 1000.0
"""Longest p99 of the pick-up in a minute in which one of several replicas is replaced."""
SHORT = """
SELECT extract(epoch FROM created_at)::float8 AS created, (result ->> 'began')::float8 AS began,
       extract(epoch FROM finished_at)::float8 AS finished, status::text, attempts
FROM tasks WHERE type = 'short' ORDER BY created_at
"""


async def measure(queue: Queue, recorded: Recorded) -> dict[str, Any]:
    """The record of a run, as docs/explanation/long-work.json has it."""
    rows = await pool_of(queue).fetch(SHORT, timeout=120)
    history = await read_history(queue, recorded.evidence, type="long")
    settled = sorted(row["finished"] for row in rows if row["finished"])
    picked_up = [(row["created"], row["began"] - row["created"]) for row in rows if row["began"]]
    plan = recorded.plan
    events = [_event(recorded, number, settled) for number in range(len(recorded.events))]
    record = {
        "plan": asdict(plan),
        "cores": os.cpu_count(),
        "seconds": round(recorded.ended - recorded.started),
        "short": {
            "tasks": len(rows),
            "completed": sum(row["status"] == "completed" for row in rows),
            "attempts_above_one": sum(row["attempts"] > 1 for row in rows),
            **_spread([seconds for _, seconds in picked_up]),
        },
        "per_minute": list(_per_minute(recorded, picked_up, settled)),
        "events": events,
        "long": [_long(recorded, history, number) for number in range(len(recorded.longs))],
        "dispatch": {"peak_runs": recorded.peak_runs, "peak_lanes": recorded.peak_lanes},
    }
    return {**record, "violations": list(_broken(recorded, history, record))}


def _per_minute(
    recorded: Recorded, picked_up: Sequence[tuple[float, float]], settled: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Pick-up of the tasks submitted in each minute, and how many were settled in it."""
    submitted: dict[int, list[float]] = {}
    for created, seconds in picked_up:
        submitted.setdefault(int((created - recorded.started) // 60), []).append(seconds)
    done = Counter(int((finished - recorded.started) // 60) for finished in settled)
    for minute in sorted(submitted | done):
        values = submitted.get(minute, [])
        yield {"minute": minute, "submitted": len(values), "settled": done[minute], **_spread(values)}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    if len(values) < 2:
        return {"p50_ms": None, "p99_ms": None, "max_ms": None}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    found = {"p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(values)}
    return {name: round(1000 * value, 1) for name, value in found.items()}


def _event(recorded: Recorded, number: int, settled: Sequence[float]) -> dict[str, Any]:
    event, following = recorded.events[number], recorded.events[number + 1 :]
    end = following[0].at if following else recorded.fed_until
    # From the last settlement before the event.
    first = max(bisect_left(settled, event.at) - 1, 0)
    moments = [*settled[first : bisect_right(settled, end)], end]
    gap = max((later - earlier for earlier, later in pairwise(moments)), default=0.0)
    windows = range(int(min(AFTERMATH_S, end - event.at) - WINDOW_S) + 1)
    counts = [
        bisect_left(settled, event.at + begin + WINDOW_S) - bisect_left(settled, event.at + begin)
        for begin in windows
    ]
    return {
        "kind": event.kind.name,
        "what": event.kind.what,
        "at_s": round(event.at - recorded.started, 1),
        "back_s": event.back_s and round(event.back_s, 1),
        "gap_s": round(gap, 1),
        "limit_s": round(_limit(event), 1),
        "rate_kept": round(min(counts) / WINDOW_S / recorded.plan.rate, 2) if counts else None,
    }


def _limit(event: Event) -> float:
    """Longest stretch without a short task settled that the event may cause."""
    start = (event.back_s or 0.0) if event.kind.name == "replica" else 0.0
    return start + event.kind.limit_s


def _long(recorded: Recorded, history: History, number: int) -> dict[str, Any]:
    task = recorded.longs[number]
    row = history.tasks[task]
    runs = [
        {
            "from_s": round(span[0] - recorded.started, 1),
            "to_s": round(span[1] - recorded.started, 1),
            "told_s": run.told and round(run.told - recorded.started, 1),
        }
        for run in history.runs.get(task, [])
        if (span := run.span)
    ]
    return {
        "task": str(task)[-8:],
        "status": row["status"],
        "attempts": row["attempts"],
        "begun": len(runs),
        "causes": dict(Counter(charge.cause for charge in history.charges.get(task, []))),
        "runs": runs,
    }


def _broken(recorded: Recorded, history: History, record: dict[str, Any]) -> Iterator[str]:
    expected = dict.fromkeys(recorded.longs, Expected("completed", 1))
    yield from recorded.incidents
    yield from violations(history, expected, overlap_s=OVERLAP_S)
    for long in record["long"]:
        explained = 1 + sum(long["causes"].values())
        if long["begun"] > explained:
            yield f"long task {long['task']} began {long['begun']} times, its history explains {explained}"
    short = record["short"]
    if short["completed"] < short["tasks"]:
        yield f"{short['tasks'] - short['completed']} of {short['tasks']} short tasks were not completed"
    if short["attempts_above_one"]:
        yield f"{short['attempts_above_one']} short tasks were charged more than one attempt"
    for event in record["events"]:
        if event["gap_s"] > event["limit_s"]:
            yield (
                f"after {event['kind']}, no short task was settled for {event['gap_s']} s; "
                f"at most {event['limit_s']} s are allowed"
            )
    if recorded.plan.replicas > 1:
        yield from _slowed_by_one_replica(record)


def _slowed_by_one_replica(record: dict[str, Any]) -> Iterator[str]:
    """What the others should have made up for while one replica was away."""
    p99_ms = {minute["minute"]: minute["p99_ms"] for minute in record["per_minute"]}
    for event in record["events"]:
        if event["kind"] not in ("replica", "redeploy"):
            continue
        if event["rate_kept"] is not None and event["rate_kept"] < RATE_KEPT:
            yield f"after {event['kind']}, {event['rate_kept']:.0%} of the short tasks were settled in 5 s"
        for minute in {int(event["at_s"] // 60), int((event["at_s"] + WINDOW_S) // 60)}:
            if (p99 := p99_ms.get(minute) or 0.0) > P99_MS:
                yield f"in minute {minute}, that of {event['kind']}, the p99 of the pick-up was {p99} ms"
