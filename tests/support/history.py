"""Every change of every task, recorded by Postgres itself, and the promises checked over it.

The queue under test cannot forget or embellish anything here: a trigger writes the rows. What handlers did
comes from files they write themselves.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

from organism_flows.blocks.queue import FINISHED, Queue
from organism_flows.blocks.queue.models.operations import DEFAULT_MAX_ATTEMPTS
from organism_flows.blocks.queue.models.streams import StreamChunk, StreamPlace
from tests.support.sql import pool_of

INSTALL = """
DROP TABLE IF EXISTS test_history;
CREATE TABLE test_history (
    number bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    task uuid, claim bigint, attempts int, old text, new text, lane text, waits text, held boolean
);
CREATE OR REPLACE FUNCTION test_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO test_history (task, claim, attempts, old, new, lane, waits, held)
    VALUES (NEW.id, NEW.claim, NEW.attempts, OLD.status, NEW.status, coalesce(NEW.locked_by, OLD.locked_by),
            NEW.waits_for, NEW.locked_by IS NOT NULL);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER test_history AFTER UPDATE ON tasks FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.claim <> NEW.claim
          OR OLD.waits_for IS DISTINCT FROM NEW.waits_for) EXECUTE FUNCTION test_history();
"""

CHARGED = ("failed", "timed_out", "rejected")
"""Causes in a task's attempt history that are charged to it."""
DEATHS = ("ran as the only suspect on a replica", "the worker process died: SIGKILL")
"""In the errors of attempts that are charged for a death: of the replica, or of the process of the task."""
CHUNKS_OF_A_RUN = 3
"""Chunks that a handler emits that completes its task, if it emits any."""
UNDER_CLAIM = re.compile(r"under claim (\d+)")
"""How handlers of the tests say in an error which claim they ran under."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one task's status or claim, or of what it waits for."""

    at: datetime
    """Of the database's clock, at the change."""
    claim: int
    old: str
    new: str
    lane: str | None
    waits: str | None = None
    """Name of the event that it waits for from then on."""
    held: bool = False
    """A lane holds it from then on."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of a task's attempt history."""

    claim: int
    cause: str
    error: str
    ended_at: datetime


@dataclass(slots=True)
class Run:
    """One run of a handler, by its own account; seconds since the epoch."""

    claim: int
    begun: float | None = None
    ended: float | None = None
    """None when its process was killed."""
    replica: int = 0
    """Process id of the replica it was on."""
    seen: float | None = None
    """When it last wrote anything."""
    told: float | None = None
    """When it noticed that it was to stop."""
    units: list[int] = field(default_factory=list)
    """Numbers of the units that it has begun."""
    left: bool = False
    """It left when it was asked to, after it had saved its last unit."""

    @property
    def span(self) -> tuple[float, float] | None:
        """When it surely went on; None: it did not say when it began."""
        if self.begun is None:
            return None
        return self.begun, max(self.begun, self.ended or self.seen or 0.0)


@dataclass(frozen=True, slots=True)
class Expected:
    """What must become of a task, whatever is killed around it."""

    status: str
    attempts: int
    payloads: tuple[Any, ...] | None = None
    """What came with the events that it had to wait for. Its handler returns the same, as ``got``."""
    units: int = 0
    """How many units it had to do, numbered from 0; each is saved before the next begins."""


@dataclass
class History:
    """Everything that happened to the tasks of one database."""

    tasks: dict[UUID, Mapping[str, Any]]
    """Rows as they are now."""
    changes: dict[UUID, list[Change]]
    charges: dict[UUID, list[Charge]]
    runs: dict[UUID, list[Run]] = field(default_factory=dict)
    streams: dict[UUID, list[tuple[int, Any]]] = field(default_factory=dict)
    """Numbers and values of what a reader gets of each task that has emitted anything. Handlers of the tests
    emit ``[claim, 1]``, ``[claim, 2]`` and so on."""


async def install_history(queue: Queue) -> None:
    """Begin to record."""
    await pool_of(queue).execute(INSTALL)


async def read_history(queue: Queue, evidence: Path | None = None, *, type: str = "%") -> History:
    """What was recorded so far.

    Args:
        evidence: What handlers wrote themselves: lines of ``task claim pid``, or ``task claim pid event at``
            with seconds since the epoch, and for events ``begin``, ``end``, ``told`` when the handler noticed
            that it was to stop, ``unit=N`` when it begins a unit, ``left`` when it leaves as it was asked to,
            and anything else while it goes on.
        type: Of tasks of these types only, a pattern of LIKE.
    """
    chosen = "SELECT id FROM tasks WHERE type LIKE $1"
    saved = "EXISTS (SELECT FROM task_checkpoints c WHERE c.task_id = t.id AND c.state IS NOT NULL)"
    rows = await pool_of(queue).fetch(
        f"SELECT *, result::text AS result_text, {saved} AS saved FROM tasks t WHERE type LIKE $1",
        type,
        timeout=60,
    )
    changes: dict[UUID, list[Change]] = defaultdict(list)
    recorded = (
        "SELECT task, at, claim, old, new, lane, waits, held FROM test_history "
        f"WHERE task IN ({chosen}) ORDER BY number"
    )
    for task, *values in await pool_of(queue).fetch(recorded, type, timeout=60):
        changes[task].append(Change(*values))
    charges: dict[UUID, list[Charge]] = defaultdict(list)
    attempts = (
        "SELECT task_id, claim, cause, coalesce(error, ''), ended_at FROM task_attempts "
        f"WHERE task_id IN ({chosen}) ORDER BY claim"
    )
    for task, *values in await pool_of(queue).fetch(attempts, type, timeout=60):
        charges[task].append(Charge(*values))
    places = [StreamPlace(row["id"]) for row in rows]
    streams: dict[UUID, list[tuple[int, Any]]] = {}
    for begin in range(0, len(places), 1000):
        for place, part in (await queue.reader.streams(places[begin : begin + 1000])).items():
            for event in part.events(place):
                if isinstance(event, StreamChunk):
                    streams.setdefault(place.task_id, []).append((event.number, event.value))
    return History({row["id"]: row for row in rows}, changes, charges, runs_in(evidence), streams)


async def check_history(queue: Queue, submitted: Iterable[str], evidence: Path | None = None) -> None:
    """Assert promises 1, 2 and 4 over everything that happened.

    Args:
        submitted: Ids of all tasks there should be.
        evidence: See `read_history`.
    """
    history = await read_history(queue, evidence)
    found = violations(history, {UUID(i): None for i in submitted}, ran=evidence is not None)
    assert not found, "\n".join(found[:20])


def violations(
    history: History,
    submitted: Mapping[UUID, Expected | None],
    *,
    ran: bool = True,
    excused: Iterable[tuple[float, float]] = (),
    overlap_s: float | None = None,
) -> list[str]:
    """Every broken promise, a line each; none when all were kept.

    Args:
        submitted: All tasks there should be, and what must have become of them.
        ran: Whether completed tasks must have left evidence.
        excused: Spans of time, in seconds since the epoch, in which somebody else killed replicas or
            processes of handlers: a task that was alone in one cannot be told from a culprit and is rightly
            charged.
        overlap_s: Longest time, in seconds, that two runs of one task may go on at once on different
            replicas; None: not checked.
    """
    excuses = list(excused)
    found = [f"{task} was lost" for task in submitted if task not in history.tasks]
    found += [f"{task} was invented" for task in history.tasks if task not in submitted]
    for task, row in history.tasks.items():
        found += [f"{task} ({row['type']}): {problem}" for problem in _about_settling(history, task)]
        found += [f"{task} ({row['type']}): {problem}" for problem in _about_charges(history, task)]
        found += [f"{task} ({row['type']}): {problem}" for problem in _about_streams(history, task)]
        found += [f"{task} ({row['type']}): {problem}" for problem in _about_waits(history, task)]
        if ran:
            problems = [*_about_runs(history, task), *_about_overlaps(history, task, overlap_s)]
            found += [f"{task} ({row['type']}): {problem}" for problem in problems]
        if expected := submitted.get(task):
            problems = [*_about_expectation(history, task, expected, excuses)]
            found += [f"{task} ({row['type']}): {problem}" for problem in problems]
    return found


def _about_settling(history: History, task: UUID) -> Iterator[str]:
    row = history.tasks[task]
    changes = history.changes.get(task, [])
    settlements = [c for c in changes if c.new in FINISHED]
    claims = [c.claim for c in changes if c.new == "running"]
    if row["status"] not in FINISHED:
        yield f"is still {row['status']}"
    if len(settlements) > 1:
        yield f"was settled {len(settlements)} times"
    if claims != sorted(set(claims)):
        yield f"claim tokens must grow: {claims}"
    for before, after in pairwise(changes):
        if before.new in FINISHED:
            yield f"changed after it was settled: {before} → {after}"
        if before.new != after.old or (after.new != "running" and after.claim != before.claim):
            yield f"a change is missing: {before} → {after}"
        if before.new == after.new == "running":
            yield f"was claimed while it was held: {before} → {after}"
    if settlements and claims and settlements[-1].claim != claims[-1]:
        yield f"was settled under claim {settlements[-1].claim}, but the newest is {claims[-1]}"
    # Whose work was accepted: handlers return their claim, or name it in their error.
    result = json.loads(row["result_text"]) if row["result_text"] else None
    if isinstance(result, dict) and result.get("claim", row["claim"]) != row["claim"]:
        yield f"holds the result of claim {result['claim']}, but the newest is {row['claim']}"
    for charge in history.charges.get(task, []):
        named = UNDER_CLAIM.search(charge.error)
        if named and int(named[1]) != charge.claim:
            yield f"claim {charge.claim} was charged for what happened under claim {named[1]}"


def _about_charges(history: History, task: UUID) -> Iterator[str]:
    row = history.tasks[task]
    causes = Counter(charge.cause for charge in history.charges.get(task, []))
    charged = sum(causes[cause] for cause in CHARGED) + (row["status"] == "completed")
    if not 0 <= row["attempts"] <= (row["max_attempts"] or DEFAULT_MAX_ATTEMPTS):
        yield f"took {row['attempts']} attempts of {row['max_attempts'] or DEFAULT_MAX_ATTEMPTS}"
    if row["status"] in ("completed", "failed") and row["attempts"] != charged:
        yield f"counts {row['attempts']} attempts, but its history has {charged}: {dict(causes)}"
    # An attempt that saves more than all before it sets the count back.
    if row["lease_lost"] > causes["lease_lost"] or (
        row["lease_lost"] != causes["lease_lost"] and not row["saved"]
    ):
        yield f"counts {row['lease_lost']} lost leases, but its history has {causes['lease_lost']}"


def _about_streams(history: History, task: UUID) -> Iterator[str]:
    claim, chunks = history.tasks[task]["claim"], history.streams.get(task, [])
    expected = [(number, [claim, number]) for number in range(1, len(chunks) + 1)]
    if chunks != expected:
        yield f"has a stream that is not the one of claim {claim}: {chunks[:10]}"
    if chunks and history.tasks[task]["status"] == "completed" and len(chunks) != CHUNKS_OF_A_RUN:
        yield f"completed, and its stream has {len(chunks)} chunks of {CHUNKS_OF_A_RUN}"


def _about_waits(history: History, task: UUID) -> Iterator[str]:
    """What is wrong with its waits for events, none of which has a timeout."""
    waiting: str | None = None
    waits: Counter[str] = Counter()
    for change in history.changes.get(task, []):
        if waiting and change.new == "running":
            yield f"was claimed while it waited for {waiting}"
        if change.waits and change.held:
            yield f"is held by {change.lane} while it waits for {change.waits}"
        if change.waits and change.waits != waiting:
            waits[change.waits] += 1
        waiting = change.waits
    if again := [name for name, times in waits.items() if times > 1]:
        yield f"waited more than once for {again}"


def _about_units(history: History, task: UUID, units: int) -> Iterator[str]:
    """What is wrong with its units: an attempt that has ended may repeat the one that was in hand."""
    runs = sorted((run for run in history.runs.get(task, []) if run.units), key=lambda run: run.claim)
    done = {unit for run in runs for unit in run.units}
    if history.tasks[task]["status"] == "completed" and (missing := set(range(units)) - done):
        yield f"completed without units {sorted(missing)}"
    causes = {charge.claim: charge.cause for charge in history.charges.get(task, [])}
    following = 0
    """The unit after the last one that was begun."""
    in_hand = 0
    """Units before it that may be done again."""
    for run in runs:
        first, last = run.units[0], run.units[-1]
        if run.units != list(range(first, last + 1)):
            yield f"did units out of order under claim {run.claim}: {run.units}"
        if first > following:
            yield f"left out units {following} to {first - 1} under claim {run.claim}"
        if first < following - in_hand:
            yield f"did units {first} to {following - in_hand - 1} again under claim {run.claim}"
        following = max(following, last + 1)
        # What leaves when it is asked to has saved everything.
        in_hand = 0 if run.left and causes.get(run.claim) == "interrupted" else 1


def _about_runs(history: History, task: UUID) -> Iterator[str]:
    row = history.tasks[task]
    runs = history.runs.get(task, [])
    claims = Counter(run.claim for run in runs)
    known = {change.claim for change in history.changes.get(task, [])}
    if twice := [claim for claim, times in claims.items() if times > 1]:
        yield f"ran more than once under claim {twice}"
    if unknown := claims.keys() - known:
        yield f"ran under claims it never had: {sorted(unknown)}"
    explained = {charge.claim for charge in history.charges.get(task, [])}
    if row["status"] in ("completed", "cancelled"):
        explained.add(row["claim"])
    if unexplained := sorted(claims.keys() - explained):
        yield f"began {len(runs)} times, without a recorded reason after claims {unexplained}"
    if row["status"] == "completed" and not any(
        run.claim == row["claim"] and run.ended is not None for run in runs
    ):
        yield f"completed, and never ran to its end under claim {row['claim']}"


def _about_overlaps(history: History, task: UUID, limit_s: float | None) -> Iterator[str]:
    for one, other, seconds in _together(history.runs.get(task, [])):
        pair = f"claims {one.claim} and {other.claim} ran at once for {seconds:.1f} s"
        if one.replica == other.replica:
            yield f"{pair}, on one replica"
        elif limit_s is not None and seconds > limit_s:
            yield f"{pair}; at most {limit_s:g} s are allowed"


def _together(runs: Iterable[Run]) -> Iterator[tuple[Run, Run, float]]:
    """Pairs of runs that went on at once, and for how many seconds."""
    timed = [(run, span) for run in runs if (span := run.span)]
    for (one, first), (other, second) in combinations(timed, 2):
        seconds = min(first[1], second[1]) - max(first[0], second[0])
        if seconds > 0:
            yield one, other, seconds


def _about_expectation(
    history: History, task: UUID, expected: Expected, excuses: list[tuple[float, float]]
) -> Iterator[str]:
    row = history.tasks[task]
    mistaken = [
        charge
        for charge in history.charges.get(task, [])
        if any(death in charge.error for death in DEATHS)
        and any(begun <= charge.ended_at.timestamp() <= ended for begun, ended in excuses)
    ]
    if row["status"] != expected.status:
        yield f"is {row['status']}, not {expected.status}: {row['error']}"
    if not expected.attempts <= row["attempts"] <= expected.attempts + len(mistaken):
        causes = [charge.cause for charge in history.charges.get(task, [])]
        yield f"was charged {row['attempts']} attempts, not {expected.attempts}: {causes}"
    if expected.payloads is not None and row["status"] == "completed":
        got = json.loads(row["result_text"]).get("got")
        if got != list(expected.payloads):
            yield f"was resumed with {got}, not {list(expected.payloads)}"
        waits = sum(1 for change in history.changes.get(task, []) if change.waits and change.old == "running")
        if waits != len(expected.payloads):
            yield f"waited {waits} times, not {len(expected.payloads)}"
    if expected.units:
        yield from _about_units(history, task, expected.units)


def charged_by_mistake(history: History, submitted: Mapping[UUID, Expected | None]) -> int:
    """Tasks charged for a death that was not their doing; see ``excused`` of `violations`."""
    return sum(
        expected is not None and history.tasks[task]["attempts"] > expected.attempts
        for task, expected in submitted.items()
        if task in history.tasks
    )


def overlaps(history: History) -> list[UUID]:
    """Tasks of which two runs went on at once, under different claims."""
    return [task for task, runs in history.runs.items() if any(_together(runs))]


def runs_in(evidence: Path | None) -> dict[UUID, list[Run]]:
    """The runs that handlers wrote down, by task; see `read_history`."""
    runs: dict[tuple[str, str, str], Run] = {}
    by_task: dict[UUID, list[Run]] = defaultdict(list)
    for line in evidence.read_text().splitlines() if evidence else ():
        task, claim, pid, *more = line.split()
        event, at = more or ("end", "0")
        run = runs.get((task, claim, pid))
        if run is None or event == "begin" or run.ended is not None:
            run = runs[task, claim, pid] = Run(int(claim), replica=int(pid))
            by_task[UUID(task)].append(run)
        run.seen = float(at)
        match event:
            case "begin":
                run.begun = float(at)
            case "end":
                run.ended = float(at)
            case "told":
                run.told = float(at)
            case "left":
                run.left = True
            case _ if event.startswith("unit="):
                run.units.append(int(event.removeprefix("unit=")))
    return by_task
