"""Why a task is where it is: what it waits for, who holds it, or how it ended; as data and in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias, assert_never
from uuid import UUID

from pydantic import BaseModel

from blocks.queue.models import Attempt, LaneRow, Pause, Status, TaskRow

AHEAD_LIMIT = 1000
"""Beyond so many nobody counts."""

Reason: TypeAlias = Literal[
    "created",
    "paused",
    "scheduled",
    "backing_off",
    "no_organ",
    "no_lane",
    "in_line",
    "running",
    "cancelling",
    "lease_past",
    "completed",
    "dead_letter",
    "cancelled",
]
"""Why a task is where it is.

- ``created``: nobody has said yet that it is to run.
- ``paused``: its type or domain is.
- ``scheduled``: it is not to run before a moment that is still to come.
- ``backing_off``: an attempt has failed, and the next one is later.
- ``no_organ``: the organism has no organ for its type.
- ``no_lane``: no lane that claims is alive.
- ``in_line``: it is due and will be claimed.
- ``running``: a lane holds it.
- ``cancelling``: a lane holds it and has been told to stop it.
- ``lease_past``: the lane that held it has fallen silent; the next reap takes it back.
- ``completed``, ``dead_letter``, ``cancelled``: it has ended.
"""


class Why(BaseModel):
    """Why a task is where it is."""

    id: UUID
    type: str
    status: Status
    reason: Reason
    """The first thing in its way."""
    sentence: str
    """The answer for a reader, with everything that is in its way."""
    next_step: str | None
    """What would change it, if somebody has to do something."""
    until: datetime | None
    """When it is due, or when the lease ends of the lane that holds it."""
    attempts: int
    max_attempts: int
    lane: str | None
    """Which holds it."""
    lanes_alive: int
    """Lanes that claim tasks now."""
    pauses: list[Pause]
    """Those in its way."""
    ahead: int | None
    """Tasks of its type and priority that are claimed before it, up to 1000; None: it does not wait."""
    cancel_requested: bool
    error: str | None
    """Of the last attempt."""
    history: list[Attempt]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else there is, in the snapshot the task was read in."""

    now: datetime
    pauses: Sequence[Pause]
    lanes: Sequence[LaneRow]
    ahead: int | None
    served: Collection[str] | None
    """Types there are organs for; None: not known."""


@dataclass(frozen=True, slots=True)
class _Said:
    reason: Reason
    text: str
    next_step: str | None = None
    until: datetime | None = None


def explain(task: TaskRow, around: Surroundings) -> Why:
    """Why ``task`` is where it is."""
    pauses = [p for p in around.pauses if p.name == (task.type if p.kind == "type" else task.domain)]
    alive = sum(lane.claiming for lane in around.lanes)
    match task.status:
        case "created":
            said = [_Said("created", "is created and not to run yet", "`run` it")]
        case "queued" | "retry":
            said = list(_in_the_way(task, around, pauses, alive)) or [_in_line(around, alive)]
        case "running":
            said = [_held(task, around)]
        case "completed":
            said = [_Said("completed", f"completed{_at(task.finished_at)} in attempt {task.attempts}")]
        case "failed":
            said = [_Said("dead_letter", _dead_letter(task), "`retry` it once the cause is gone")]
        case "cancelled":
            said = [
                _Said("cancelled", f"was cancelled{_at(task.finished_at)}", "`retry` it to run it after all")
            ]
        case _:
            assert_never(task.status)
    return Why(
        id=task.id,
        type=task.type,
        status=task.status,
        reason=said[0].reason,
        sentence=f"task {task.id} {'; and '.join(each.text for each in said)}.",
        next_step="; ".join(each.next_step for each in said if each.next_step) or None,
        until=max((each.until for each in said if each.until), default=None),
        attempts=task.attempts,
        max_attempts=task.max_attempts,
        lane=task.locked_by,
        lanes_alive=alive,
        pauses=pauses if task.status in ("queued", "retry") else [],
        ahead=around.ahead,
        cancel_requested=task.cancel_requested,
        error=task.error,
        history=task.history,
    )


def _in_the_way(task: TaskRow, around: Surroundings, pauses: Sequence[Pause], alive: int) -> Iterator[_Said]:
    for pause in pauses:
        because = f" ({pause.reason})" if pause.reason else ""
        yield _Said(
            "paused",
            f"waits because {pause.kind} {pause.name} is paused since {_time(pause.paused_at)}{because}",
            f"resume it: `organism tasks resume --{pause.kind} {pause.name}`",
        )
    if task.run_after > around.now:
        if task.status == "retry" and task.error:
            last = f"attempt {task.attempts} of {task.max_attempts} failed ({_short(task.error)})"
            text = f"backs off: {last}, the next one is at {_time(task.run_after)}"
            yield _Said("backing_off", text, until=task.run_after)
        else:
            text = f"is scheduled: not before {_time(task.run_after)}"
            yield _Said("scheduled", text, until=task.run_after)
    if around.served is not None and task.type not in around.served:
        text = f"is of a type the organism has no organ for: {task.type}"
        yield _Said("no_organ", text, "add an organ for it to the configuration, or cancel the task")
    if not alive:
        text = "waits for a lane: none is alive that claims tasks"
        yield _Said("no_lane", text, "start one: `organism dispatch`")


def _in_line(around: Surroundings, alive: int) -> _Said:
    ahead = around.ahead or 0
    before = (
        "it is the first" if not ahead else f"{ahead}{'+' if ahead >= AHEAD_LIMIT else ''} come before it"
    )
    lanes = "1 lane claims" if alive == 1 else f"{alive} lanes claim"
    return _Said("in_line", f"is due and in line: {before} of its type and priority, and {lanes} tasks")


def _held(task: TaskRow, around: Surroundings) -> _Said:
    lane = next((lane for lane in around.lanes if lane.id == task.locked_by), None)
    if lane is None or not lane.live:
        until = lane.lease_until if lane else None
        # A lane whose lease was ended for good has the epoch there.
        when = f" at {_time(until)}" if until and until.timestamp() > 0 else ""
        text = f"was held by lane {task.locked_by}, whose lease ended{when}; the next reap takes it back"
        return _Said("lease_past", text, "any lane reaps: `organism dispatch`")
    asked = ", and is to be cancelled: its handler has been or will be told" if task.cancel_requested else ""
    return _Said(
        "cancelling" if task.cancel_requested else "running",
        f"runs since {_time(task.locked_at)}, attempt {task.attempts} of {task.max_attempts}, leased by lane "
        f"{lane.id} until {_time(lane.lease_until)}{asked}",
        until=lane.lease_until,
    )


def _dead_letter(task: TaskRow) -> str:
    causes = Counter(attempt.cause for attempt in task.history)
    counted = ", ".join(f"{number} {cause}" for cause, number in causes.items())
    history = f"; attempts that did not complete it: {counted}" if counted else ""
    because = f" because {_short(task.error)}" if task.error else ""
    return f"is a dead letter since {_time(task.finished_at)}{because}{history}"


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}" if moment else "an unknown time"


def _at(moment: datetime | None) -> str:
    return f" at {_time(moment)}" if moment else ""


def _short(text: str, length: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
