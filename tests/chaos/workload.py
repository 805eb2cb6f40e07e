"""The tasks of a chaos run: harmless, failing and deadly ones, and what must become of each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from tests.support.history import Expected

SHARES = {"quick": 0.82, "slow": 0.06, "flaky": 0.06, "hopeless": 0.02, "refused": 0.02, "asks": 0.02}
"""Of all tasks; poison is put among them one at a time, long ones some at a time."""
WAITS = 2
"""Events that a task which asks waits for, one after the other."""
LATE_S = 15.0
"""The longest that an event comes after its task was submitted, in seconds."""
UNITS = 60
"""Units of a task of units."""
UNIT_TYPES = ("units", "units.process")
UNIT_ATTEMPTS = 10
"""A kill of the process of a task is charged to it: so many are no end of it."""
HOPELESS_ATTEMPTS = 2
POISON_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """An event to send to a task."""

    name: str
    payload: Any
    after_s: float
    """Seconds after the task was submitted."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A task to submit, the events to send to it, and what must become of it."""

    task: NewTask
    expected: Expected
    events: tuple[PlannedEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Mix:
    """How long tasks take, in seconds at most."""

    quick_s: float = 0.2
    slow_s: float = 2.0
    long_s: tuple[float, float] = (60.0, 300.0)
    """Shortest and longest of the long ones."""
    unit_s: float = 2.0
    """Each unit."""


def stream(chance: random.Random, mix: Mix, evidence: Path) -> Iterator[Planned]:
    """Harmless and failing tasks without end, the same for the same seed.

    Args:
        evidence: File for the handlers to write to.
    """
    while True:
        [kind] = chance.choices(list(SHARES), list(SHARES.values()))
        yield _planned(kind, chance, mix, str(evidence))


def long(chance: random.Random, mix: Mix, evidence: Path) -> Planned:
    """A harmless task that takes much longer than the time between two kills."""
    params = {"seconds": round(chance.uniform(*mix.long_s), 1)}
    return Planned(_task("long", str(evidence), params), Expected("completed", 1))


def units(number: int, mix: Mix, evidence: Path) -> Planned:
    """A task of many units, each of which is saved; of several, each second one runs in a process."""
    kind = UNIT_TYPES[number % len(UNIT_TYPES)]
    params = {"units": UNITS, "seconds": mix.unit_s}
    task = _task(kind, str(evidence), params, max_attempts=UNIT_ATTEMPTS)
    return Planned(task, Expected("completed", 1, units=UNITS))


def poison(evidence: Path) -> Planned:
    """A task that ends its replica."""
    task = _task("poison", str(evidence), {}, max_attempts=POISON_ATTEMPTS)
    return Planned(task, Expected("failed", POISON_ATTEMPTS))


def _planned(kind: str, chance: random.Random, mix: Mix, file: str) -> Planned:
    match kind:
        case "slow":
            params = {"seconds": round(chance.uniform(0.1, mix.slow_s), 3)}
            return Planned(_task(kind, file, params), Expected("completed", 1))
        case "flaky":
            failures = chance.randint(1, 2)
            params = {"seconds": _moment(chance, mix), "failures": failures}
            return Planned(_task(kind, file, params), Expected("completed", 1 + failures))
        case "hopeless":
            params = {"seconds": _moment(chance, mix), "failures": 1000}
            task = _task(kind, file, params, max_attempts=HOPELESS_ATTEMPTS)
            return Planned(task, Expected("failed", HOPELESS_ATTEMPTS))
        case "refused":
            params = {"seconds": _moment(chance, mix), "refuse": True}
            return Planned(_task(kind, file, params), Expected("failed", 1))
        case "asks":
            return _asks(chance, mix, file)
        case _:
            return Planned(_task(kind, file, {"seconds": _moment(chance, mix)}), Expected("completed", 1))


def _asks(chance: random.Random, mix: Mix, file: str) -> Planned:
    """A task that waits for events: each comes early, before it waits, or late, and some come twice."""
    names = [f"answer-{number}" for number in range(WAITS)]
    events: list[PlannedEvent] = []
    for name in names:
        after_s = chance.choice([0.0, chance.uniform(0.0, LATE_S)])
        events.append(PlannedEvent(name, {"to": name, "value": chance.randrange(1000)}, after_s))
        if chance.random() < 0.5:
            events.append(PlannedEvent(name, "again", after_s + chance.choice([0.0, 1.0])))
    payloads = tuple(event.payload for event in events if event.payload != "again")
    task = _task("asks", file, {"seconds": _moment(chance, mix), "events": names})
    return Planned(task, Expected("completed", 1, payloads), tuple(events))


def _moment(chance: random.Random, mix: Mix) -> float:
    return round(chance.uniform(0.0, mix.quick_s), 3)


def _task(kind: str, file: str, params: Mapping[str, Any], **fields: int) -> NewTask:
    # With an id of ours it can be submitted again when the answer to the first time was lost.
    return NewTask(id=uuid4(), type=kind, params={**params, "file": file}, **fields)


async def submit(queue: Queue, planned: Sequence[Planned]) -> dict[UUID, Expected]:
    """Submit tasks, however often Postgres has to be asked; returns what must become of each."""
    while True:
        try:
            await queue.submit([p.task for p in planned])
        except TRANSIENT_ERRORS:
            await asyncio.sleep(0.2)
            continue
        except ConfigurationError:
            # The time before, they had been committed after all.
            pass
        return {p.task.id: p.expected for p in planned if p.task.id}
