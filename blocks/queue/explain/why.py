"""Why a task is where it is, as data; and what of the queue decides that."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias
from uuid import UUID

from pydantic import BaseModel

from organism_flows.blocks.queue.explain.forecast import Wait
from organism_flows.blocks.queue.explain.order import TaskOrder
from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.blocks.queue.models.limits import Closure, LimitRoom
from organism_flows.blocks.queue.models.operations import Pause, Status
from organism_flows.blocks.queue.models.rows import Attempt

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


class Forecast(BaseModel, defer_build=True):
    """A range of time in which something happens four times in five, by what was observed lately."""

    earliest: datetime
    latest: datetime | None
    """`None` means that what was observed gives no end."""


class LineForecast(Forecast):
    """When a task begins that waits in line."""

    per_minute: float
    """Tasks of its type, priority, domain and key that began a minute."""
    window_s: float
    """Seconds over which that was observed."""


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
    """Tasks of its type, priority, domain and key that are claimed before it, up to 5,000. `None` means it
    does not wait."""
    begins: LineForecast | None
    """When its handler will begin. `None` means that too little is known, or that more than the tasks before
    it and limits keeps it waiting."""
    room: Forecast | None
    """When a limit on what runs, which is used up, will allow another task."""
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
    order: TaskOrder | None = None
    """What its type asks of the order, of a task that waits."""
    begins: Wait | None = None
    """When it begins, if nothing but the tasks before it and limits keeps it waiting."""
    rooms: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """In which range of seconds a limit on what runs, by name, allows another task."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One reason, in words."""

    reason: Reason
    text: str
    next_step: str | None = None
    until: datetime | None = None
    room: Forecast | None = None
