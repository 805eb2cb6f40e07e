"""What reading the queue returns: tasks, attempts, progress, results and counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any
from uuid import UUID

from pydantic import BaseModel, model_validator

from organism_flows.blocks.queue.models.fields import Moment
from organism_flows.blocks.queue.models.operations import STATUSES, Status
from organism_flows.blocks.queue.models.timestamps import FIRST


class Attempt(BaseModel, defer_build=True):
    """One attempt that did not complete its task."""

    claim: int
    attempt: int
    lane: str | None
    cause: str
    error: str | None
    started_at: Moment | None
    ended_at: Moment
    log: str | None = None
    """The last lines that its handler logged through its context."""
    handler_version: str | None = None
    """Version of the handler that ran it. `None` means that it is not known."""
    resumed_step: int | None = None
    """Step of the checkpoint that it continued from. `None` means that there was none."""
    reached_step: int | None = None
    """Step of the newest checkpoint when it ended. `None` means that there was none."""
    fraction: float | None = None
    """Done share, from 0 to 1, that its handler last reported."""

    @property
    def reach(self) -> str:
        """Return how far it got and what ran it, in words. Empty means that neither is known."""
        parts = []
        if self.reached_step is not None:
            start = "" if self.resumed_step is None else f"from step {self.resumed_step} "
            parts.append(f"{start}to step {self.reached_step}")
        if self.fraction is not None:
            parts.append(f"{self.fraction:.0%} done")
        if self.handler_version is not None:
            parts.append(f"handler {self.handler_version}")
        return ", ".join(parts)


class TaskProgress(BaseModel, defer_build=True):
    """What the handler of a task has reported while it ran, in its newest attempt that reported something."""

    fraction: float | None
    """Done share, from 0 to 1. `None` means unknown."""
    note: str | None
    """Progress in words."""
    step: int
    """How many different states led to its newest checkpoint. 0 means that it has none."""
    saved_at: Moment | None
    """When that was saved."""
    reported_at: Moment
    """When something was last reported."""
    resumed_step: int | None = None
    """Step that this attempt continued from. 0 means that it began at the start."""


class TaskWait(BaseModel, defer_build=True):
    """The event that a task waits for."""

    event: str
    """Its name."""
    since: Moment
    until: Moment | None
    """When the task continues without it. `None` means never."""
    or_fail: bool
    """True if it fails then, instead of continuing."""


IF_NULL: dict[str, Any] = {
    "type": "",
    "params": {},
    "drift_score": 0.0,
    "status": "created",
    "attempts": 0,
    "run_after": FIRST,
    "created_at": FIRST,
    "updated_at": FIRST,
}
"""Values to read where an adopted table of the older system has NULL, or a status of its own."""


class Row(BaseModel, defer_build=True):
    """A row of the table of tasks. It can be read whatever it holds."""

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, row: Any) -> Any:
        if not isinstance(row, dict):
            return row
        if row.get("status") not in (*STATUSES, None):
            error = f"its status {row['status']!r} is none of the queue's: no lane takes it"
            row = {**row, "status": IF_NULL["status"], "error": error}
        if row.get("waits_for") is not None and row["status"] == "queued":
            row = {**row, "status": "waiting"}
        # JSON has no NaN and no infinity.
        for name, value in row.items():
            if isinstance(value, float) and not isfinite(value):
                row = {**row, name: None}
        return row | {name: value for name, value in IF_NULL.items() if name in row and row[name] is None}


class TaskRow(Row):
    """A task with all its columns."""

    id: UUID
    type: str
    description: str | None
    params: Any
    domain: str | None
    drift_score: float
    status: Status
    attempts: int
    max_attempts: int
    """The limit in effect: the task's own, else its type's, else 5."""
    claim: int
    priority: int
    dedup_key: str | None
    key: str | None
    traceparent: str | None
    timeout_s: float | None
    cancel_requested: bool
    timed_out: int
    lease_lost: int
    interrupted: int
    snoozed: int
    suspicion: int
    locked_by: str | None
    locked_at: datetime | None
    begun_at: datetime | None
    run_after: Moment
    expires_at: Moment | None
    cost: float | None
    result: Any
    error: str | None
    log: str | None
    """The last lines that its handler logged, in the last attempt that has ended."""
    organ_id: str | None
    path: str | None
    elapsed_ms: float | None
    handler_version: str | None
    """Version of the handler of its newest attempt. `None` means that it is not known, or the attempt began a
    moment ago."""
    created_at: Moment
    updated_at: datetime
    finished_at: datetime | None
    history: list[Attempt] = []
    waits_for: TaskWait | None = None
    """`None` means that it waits for no event."""
    progress: TaskProgress | None = None
    """`None` means that no handler has reported any."""
    chunks: int = 0
    """Number of the last chunk that its handler has emitted in the newest attempt. 0 means none."""


class TaskSummary(Row):
    """A task in a list."""

    id: UUID
    type: str
    status: Status
    attempts: int
    domain: str | None
    created_at: Moment
    finished_at: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class TaskState:
    """The current state of a task."""

    id: UUID
    status: Status
    attempts: int
    cancel_requested: bool
    lane: str | None
    fraction: float | None = None
    """Done share, as its handler has reported it."""
    note: str | None = None
    """Progress in words."""


@dataclass(frozen=True, slots=True)
class Depth:
    """Number of tasks of a type and status."""

    type: str
    status: Status
    tasks: int
    oldest_s: float | None
    """Seconds since the first of them was due, claimed, created or a dead letter. Below 0 means none is due
    yet. `None` means they completed or were cancelled."""


class TaskResult(Row):
    """A task with its result or error."""

    id: UUID
    type: str
    status: Status
    result: Any
    error: str | None
    attempts: int
    created_at: Moment
    finished_at: datetime | None
    elapsed_ms: float | None


@dataclass(frozen=True, slots=True)
class Redrivable:
    """Tasks that a redrive would queue."""

    count: int
    sample: list[TaskSummary]
    """The first of them to finish."""
