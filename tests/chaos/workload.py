"""The tasks of a chaos run: harmless, failing and deadly ones, and what must become of each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from tests.support.history import Expected

SHARES = {"quick": 0.84, "slow": 0.06, "flaky": 0.06, "hopeless": 0.02, "refused": 0.02}
"""Of all tasks; poison is put among them one at a time, long ones some at a time."""
HOPELESS_ATTEMPTS = 2
POISON_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Planned:
    """A task to submit, and what must become of it."""

    task: NewTask
    expected: Expected


@dataclass(frozen=True, slots=True)
class Mix:
    """How long tasks take, in seconds at most."""

    quick_s: float = 0.2
    slow_s: float = 2.0
    long_s: tuple[float, float] = (60.0, 300.0)
    """Shortest and longest of the long ones."""


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
        case _:
            return Planned(_task(kind, file, {"seconds": _moment(chance, mix)}), Expected("completed", 1))


def _moment(chance: random.Random, mix: Mix) -> float:
    return round(chance.uniform(0.0, mix.quick_s), 3)


def _task(kind: str, file: str, params: Mapping[str, object], **fields: int) -> NewTask:
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
