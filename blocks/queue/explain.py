"""Why a task waits, who holds it, or how it ended; as data and in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, assert_never
from uuid import UUID

from pydantic import BaseModel

from organism_flows.blocks.long_work import WAITS_LONG_S
from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.blocks.queue.models.limits import Closure, LimitRoom
from organism_flows.blocks.queue.models.operations import FINISHED, Pause, Status
from organism_flows.blocks.queue.models.rows import Attempt, TaskRow
from organism_flows.blocks.queue.wording import (
    at_time,
    counted,
    oldest,
    shortened,
    time_text,
    times,
    wait_text,
)

AHEAD_LIMIT = 1000
"""Most tasks in front of a task that are counted."""
BEGUN_KNOWN_S = 3.0
"""Seconds after a claim from which it is known whether a handler has begun. A lane records a handler that has
run for about 2 s, not earlier."""
WHOLE = 1 - 1e-6
"""Room for one task, as a sum of fractions has it."""
INTERRUPTED_OFTEN = 3
"""Interruptions from which on the cause should be found."""

Reason: TypeAlias = Literal[
    "created",
    "paused",
    "expired",
    "closed",
    "limited",
    "snoozed",
    "waiting",
    "scheduled",
    "backing_off",
    "no_organ",
    "no_lane",
    "in_line",
    "claimed",
    "handed_over",
    "running",
    "cancelling",
    "lease_past",
    "completed",
    "dead_letter",
    "cancelled",
]
"""Why a task is where it is.

- ``created``: it was added without a request to run it.
- ``paused``: its type or domain is paused.
- ``expired``: its time to begin is over. The next lane that checks makes it a dead letter.
- ``closed``: its key, or one of its limits, is closed until a moment, as a handler has asked.
- ``limited``: a limit allows no more tasks like it now.
- ``snoozed``: its handler put it off until a moment.
- ``waiting``: its handler waits for an event.
- ``scheduled``: it must not run before a moment in the future.
- ``backing_off``: an attempt has failed, and the next one is later.
- ``no_organ``: the organism has no organ for its type.
- ``no_lane``: no live lane claims tasks.
- ``in_line``: it is due and will be claimed.
- ``claimed``: a lane has just claimed it. Whether a handler has begun with it is not known yet.
- ``handed_over``: a lane holds it, and it waits on a replica for a handler.
- ``running``: a handler has begun with it.
- ``cancelling``: a lane holds it, and it is to be cancelled.
- ``lease_past``: the lease of the lane that held it has ended. The next reap takes it back.
- ``completed``, ``dead_letter``, ``cancelled``: it has ended.
"""


class Why(BaseModel, defer_build=True):
    """Why a task is where it is."""

    id: UUID
    type: str
    status: Status
    reason: Reason
    """The first reason that keeps it there."""
    sentence: str
    """The answer for a reader, with every reason."""
    next_step: str | None
    """What would change it, if an action is needed."""
    until: datetime | None
    """When it is due, or when the lease of the lane that holds it ends."""
    attempts: int
    max_attempts: int
    lane: str | None
    """The lane that holds it."""
    lanes_alive: int
    """Number of lanes that claim tasks now."""
    pauses: list[Pause]
    """Pauses that keep it waiting."""
    ahead: int | None
    """Tasks of its type, priority, domain and key that are claimed before it, up to 1000. `None` means it
    does not wait."""
    of_type_running: int | None
    """Other tasks of its type that lanes hold now. `None` means it has ended, or is not to run yet."""
    of_type_since: datetime | None
    """When the first of them began, or was claimed if its beginning is not known."""
    begun_at: datetime | None
    """When the handler that runs now began with it, if that is known."""
    interrupted: int
    """How often a handler that had begun with it was stopped for no fault of the task."""
    suspicion: int
    """Number of replicas that died with it on them. Above 0 it runs in a process of its own."""
    lane_leaving_at: datetime | None
    """When the lane that holds it stopped claiming, to wait for its tasks to end."""
    cancel_requested: bool
    error: str | None
    """Error of the last attempt."""
    history: list[Attempt]


@dataclass(frozen=True, slots=True)
class RunningOfType:
    """Other tasks of the same type that live lanes hold."""

    held: int
    held_since: datetime | None
    begun: int
    """Number of them that a handler is known to have begun with."""
    begun_since: datetime | None


@dataclass(frozen=True, slots=True)
class QueueSituation:
    """The rest of the queue, in the snapshot in which the task was read."""

    now: datetime
    pauses: Sequence[Pause]
    lanes: Sequence[LaneRow]
    ahead: int | None
    served: Collection[str] | None
    """Types that have an organ. `None` means not known."""
    of_type: RunningOfType | None = None
    """`None` means the task has ended, or is not to run yet."""
    limits: Sequence[LimitRoom] = ()
    """What its limits allow now, of a task that waits."""
    closures: Sequence[Closure] = ()
    """What is closed that it needs."""


@dataclass(frozen=True, slots=True)
class _Fact:
    reason: Reason
    text: str
    next_step: str | None = None
    until: datetime | None = None


def explain(task: TaskRow, situation: QueueSituation) -> Why:
    """Return why ``task`` is where it is.

    Args:
        task: The task.
        situation: The rest of the queue.
    """
    pauses = [p for p in situation.pauses if p.name == (task.type if p.kind == "type" else task.domain)]
    alive = sum(lane.claiming for lane in situation.lanes)
    holder = next((lane for lane in situation.lanes if lane.id == task.locked_by and lane.live), None)
    match task.status:
        case "created":
            facts = [_Fact("created", "is created and not to run yet", "`run` it")]
        case "queued" | "retry":
            facts = list(_in_the_way(task, situation, pauses, alive)) or [_in_line(situation, alive)]
        case "waiting":
            wait = task.waits_for
            send = f"send it: `organism tasks signal {task.id} {wait.event}`" if wait else None
            facts = [_Fact("waiting", wait_text(wait), send, wait.until if wait else None)]
        case "running":
            facts = [_held(task, situation, holder)]
        case "completed":
            facts = [_Fact("completed", f"completed{at_time(task.finished_at)} in attempt {task.attempts}")]
        case "failed":
            facts = [_Fact("dead_letter", _dead_letter(task), "`retry` it once the cause is gone")]
        case "cancelled":
            facts = [
                _Fact(
                    "cancelled",
                    f"was cancelled{at_time(task.finished_at)}",
                    "`retry` it to run it after all",
                )
            ]
        case _:
            assert_never(task.status)
    notes = [] if task.status in FINISHED else list(_notes(task, holder))
    sentence = "; ".join(["; and ".join(each.text for each in facts), *(note.text for note in notes)])
    steps = [each.next_step for each in (*facts, *notes) if each.next_step]
    return Why(
        id=task.id,
        type=task.type,
        status=task.status,
        reason=facts[0].reason,
        sentence=f"task {task.id} {sentence}.",
        next_step="; ".join(steps) or None,
        until=max((each.until for each in facts if each.until), default=None),
        attempts=task.attempts,
        max_attempts=task.max_attempts,
        lane=task.locked_by,
        lanes_alive=alive,
        pauses=pauses if task.status in ("queued", "retry") else [],
        ahead=situation.ahead,
        of_type_running=situation.of_type.held if situation.of_type else None,
        of_type_since=situation.of_type.held_since if situation.of_type else None,
        begun_at=begun_at(task),
        interrupted=task.interrupted,
        suspicion=task.suspicion,
        lane_leaving_at=holder.leaves_since if holder else None,
        cancel_requested=task.cancel_requested,
        error=task.error,
        history=task.history,
    )


def begun_at(task: TaskRow) -> datetime | None:
    """Return when a handler began with the current claim of ``task``.

    `None` means that none has begun, or not long enough ago to be recorded.
    """
    if task.status != "running" or task.begun_at is None or task.locked_at is None:
        return None
    # A beginning before the claim belongs to an earlier claim.
    return task.begun_at if task.begun_at >= task.locked_at else None


def _in_the_way(
    task: TaskRow, situation: QueueSituation, pauses: Sequence[Pause], alive: int
) -> Iterator[_Fact]:
    if task.expires_at is not None and task.expires_at <= situation.now:
        text = f"expired at {time_text(task.expires_at)}, and a lane or the watchdog is about to end it"
        yield _Fact("expired", text)
    for pause in pauses:
        because = f" ({pause.reason})" if pause.reason else ""
        yield _Fact(
            "paused",
            f"waits because {pause.kind} {pause.name} is paused since {time_text(pause.paused_at)}{because}",
            f"resume it: `organism tasks resume --{pause.kind} {pause.name}`",
        )
    for closure in situation.closures:
        yield _closed(closure)
    for limit in situation.limits:
        if limit.room < limit.needs * WHOLE and limit.opens_s is None:
            yield _limited(limit, situation.now)
    if task.run_after > situation.now:
        last_end = task.history[-1] if task.history else None
        if last_end is not None and last_end.cause == "snoozed":
            because = shortened(last_end.error or "")
            text = f"was put off by its handler until {time_text(task.run_after)} ({because})"
            yield _Fact("snoozed", text, until=task.run_after)
        elif task.status == "retry" and task.error:
            last = f"attempt {task.attempts} of {task.max_attempts} failed ({shortened(task.error)})"
            text = f"backs off: {last}, the next one is at {time_text(task.run_after)}"
            yield _Fact("backing_off", text, until=task.run_after)
        else:
            text = f"is scheduled: not before {time_text(task.run_after)}"
            yield _Fact("scheduled", text, until=task.run_after)
    if situation.served is not None and task.type not in situation.served:
        text = f"is of a type the organism has no organ for: {task.type}"
        yield _Fact("no_organ", text, "add an organ for it to the configuration, or cancel the task")
    if not alive:
        leaving = sum(lane.live for lane in situation.lanes)
        text = "waits for a lane: none is alive that claims tasks"
        if leaving:
            text += f" ({counted(leaving, 'lane is', 'lanes are')} leaving)"
        yield _Fact("no_lane", text, "start one: `organism dispatch`")


def _closed(closure: Closure) -> _Fact:
    of_key = f"key {closure.key}" if closure.key else ""
    if closure.kind == "limit":
        what = f"limit {closure.name}" + (f" for {of_key}" if of_key else "")
    else:
        what = f"{of_key} of type {closure.name}" if of_key else f"type {closure.name} without a key"
    because = f" ({shortened(closure.reason)})" if closure.reason else ""
    return _Fact(
        "closed",
        f"waits because {what} is closed until {time_text(closure.until)}{because}",
        until=closure.until,
    )


def _limited(limit: LimitRoom, now: datetime) -> _Fact:
    of_key = f" for key {limit.key}" if limit.key else ""
    if limit.amount == 0:
        return _Fact(
            "limited",
            f"waits because limit {limit.name} allows none{of_key}",
            f"raise it: `organism limits set {limit.name}`",
        )
    if limit.kind == "running":
        return _Fact(
            "limited",
            f"waits because limit {limit.name} allows {limit.amount} at once{of_key}, and as many run",
        )
    if limit.kind == "cost":
        text = f"waits because limit {limit.name} has {limit.room:g} of {limit.amount} left{of_key}, "
        text += f"and its cost is {limit.needs:g}"
        until = now + timedelta(seconds=limit.next_s) if limit.next_s is not None else None
        return _Fact(
            "limited", text + (f": more is left at {time_text(until)}" if until else ""), until=until
        )
    until = now + timedelta(seconds=limit.next_s) if limit.next_s is not None else None
    text = f"waits because the rate of limit {limit.name}{of_key} is used up: "
    text += f"another begins at {time_text(until)}"
    return _Fact("limited", text, until=until)


def _in_line(situation: QueueSituation, alive: int) -> _Fact:
    ahead = situation.ahead or 0
    before = (
        "it is the first" if not ahead else f"{ahead}{'+' if ahead >= AHEAD_LIMIT else ''} come before it"
    )
    lanes = "1 lane claims" if alive == 1 else f"{alive} lanes claim"
    text = f"is due and in line: {before} of its type, priority, domain and key, and {lanes} tasks"
    others = situation.of_type
    if others and others.held:
        text += f"; {counted(others.held, 'other of its type runs', 'others of its type run')} now, "
        text += f"{oldest(others.held)}since {time_text(others.held_since)}"
    return _Fact("in_line", text)


def _held(task: TaskRow, situation: QueueSituation, holder: LaneRow | None) -> _Fact:
    if holder is None:
        lane = next((lane for lane in situation.lanes if lane.id == task.locked_by), None)
        until = lane.lease_until if lane else None
        # A lane whose lease a reap has ended has the epoch there.
        when = f" at {time_text(until)}" if until and until.timestamp() > 0 else ""
        text = f"was held by lane {task.locked_by}, whose lease ended{when}; the next reap takes it back"
        return _Fact("lease_past", text, "any lane reaps: `organism dispatch`")
    place = _place(task, situation)
    asked = ""
    if task.cancel_requested:
        asked = ", and is to be cancelled: its handler has been or will be notified"
    return _Fact(
        "cancelling" if task.cancel_requested else place.reason,
        f"{place.text}, attempt {task.attempts} of {task.max_attempts}, leased by lane "
        f"{holder.id} until {time_text(holder.lease_until)}{asked}",
        place.next_step,
        until=holder.lease_until,
    )


def _place(task: TaskRow, situation: QueueSituation) -> _Fact:
    """Return whether a handler has begun with a task that a live lane holds."""
    begun = begun_at(task)
    held_s = (situation.now - task.locked_at).total_seconds() if task.locked_at else 0.0
    if begun is not None:
        return _Fact("running", f"runs since {time_text(begun)}")
    if held_s < BEGUN_KNOWN_S:
        return _Fact("claimed", f"was claimed {max(held_s, 0.0):.0f} s ago")
    text = f"was handed to a replica {held_s:.0f} s ago and waits there for a handler"
    if situation.of_type and situation.of_type.begun:
        behind = counted(
            situation.of_type.begun, "other of its type that runs", "others of its type that run"
        )
        text += f" behind {behind}, {oldest(situation.of_type.begun)}"
        text += f"since {time_text(situation.of_type.begun_since)}"
    step = "more replicas, or more `concurrency` of its organ, let it begin sooner"
    return _Fact("handed_over", text, step if held_s > WAITS_LONG_S else None)


def _notes(task: TaskRow, holder: LaneRow | None) -> Iterator[_Fact]:
    """Yield further facts about an unfinished task. None of them keeps it waiting."""
    if task.expires_at is not None and task.status != "running":
        late = task.run_after >= task.expires_at
        text = f"it expires at {time_text(task.expires_at)}" + (", before it is due" if late else "")
        yield _Fact("scheduled", text)
    if task.suspicion > 0:
        died = counted(task.suspicion, "replica has", "replicas have")
        runs = "runs" if begun_at(task) else "is to run"
        yield _Fact("running", f"it {runs} in a process of its own because {died} died with it")
    if task.interrupted:
        last = next((each for each in reversed(task.history) if each.cause == "interrupted"), None)
        text = f"it was interrupted {times(task.interrupted)}"
        if last is not None:
            text += f", {'' if task.interrupted == 1 else 'the last time '}at {time_text(last.ended_at)}"
            text += f" ({shortened(last.error)})" if last.error else ""
        bound = f"bound it with `organism tasks policy {task.type} --max-interruptions N`"
        often = task.interrupted >= INTERRUPTED_OFTEN
        yield _Fact("running", text, f"find out what interrupts it, or {bound}" if often else None)
    if holder is not None and (since := holder.leaves_since):
        leaving = f"lane {holder.id} is leaving since {time_text(since)}"
        yield _Fact("running", f"{leaving}: it claims nothing more and waits for its tasks to end")


def _dead_letter(task: TaskRow) -> str:
    causes = Counter(attempt.cause for attempt in task.history)
    counted = ", ".join(f"{number} {cause.replace('_', ' ')}" for cause, number in causes.items())
    history = f"; attempts that did not complete it: {counted}" if counted else ""
    because = f" because {shortened(task.error)}" if task.error else ""
    return f"is a dead letter since {time_text(task.finished_at)}{because}{history}"
