"""Arguments and results of the queue's operations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.models.fields import WHOLE, Moment, TaskParams, TaskType, Text
from organism_flows.blocks.tracing import TRACEPARENT
from organism_flows.blocks.validation import first_error

Status: TypeAlias = Literal[
    "created", "queued", "waiting", "running", "completed", "failed", "cancelled", "retry"
]
"""The status that is shown. In the table, a task that is ``waiting`` for an event is ``queued``."""
ParamsPath: TypeAlias = Annotated[str, Field(pattern=r"^params\.[A-Za-z0-9_-][A-Za-z0-9_.-]{0,190}$")]
"""Where a value is in the params of a task, such as ``params.customer.id``."""
Exported: TypeAlias = "dict[str, Any]"
"""A task by column. Its params and result are JSON text, its moments ISO text."""
Finished: TypeAlias = Literal["completed", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = get_args(Status)
STORED_STATUSES = tuple(status for status in STATUSES if status != "waiting")
"""The labels of the type ``taskstatus``."""
FINISHED: tuple[Finished, ...] = ("completed", "failed", "cancelled")

DEFAULT_MAX_ATTEMPTS = 5
"""Most attempts of a task if neither it nor the policy of its type sets a limit."""
DEFAULT_MAX_SNOOZES = 100
"""How often a handler may put a task off if the policy of its type does not say."""


class NewTask(BaseModel, defer_build=True):
    """A task to submit."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    type: TaskType
    params: TaskParams = Field(default_factory=dict)
    description: Text | None = None
    domain: Text | None = Field(default=None, max_length=200)
    drift_score: float = 0.0
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31), WHOLE] = Field(
        default=0, description="Higher runs first."
    )
    run_after: Moment | None = Field(default=None, description="Not before this moment. `None` means now.")
    max_attempts: Annotated[int, Field(ge=1, le=1000), WHOLE] | None = Field(
        default=None, description="`None` means the limit of its type."
    )
    timeout_s: float | None = Field(default=None, gt=0, description="`None` means the organ's timeout.")
    dedup_key: Text | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Of two unfinished tasks of one type with the same key, the second is not added.",
    )
    key: Text | None = Field(
        default=None,
        min_length=1,
        max_length=125,
        description="Customer, account, model: tasks with different keys take turns.",
    )
    expires_at: Moment | None = Field(
        default=None,
        description="No attempt begins then or later: it becomes a dead letter. `None` means never.",
    )
    expires_in_s: float | None = Field(
        default=None,
        gt=0,
        le=366 * 86400,
        description="Seconds from the submission until it expires; instead of `expires_at`.",
    )
    cost: float | None = Field(
        default=None,
        ge=0,
        le=1e15,
        description="Estimate of what it spends, for limits on cost. `None` means that of its type.",
    )
    traceparent: str | None = Field(
        default=None,
        pattern=TRACEPARENT,
        description="W3C trace context that its trace goes on from. `None` means that of the submission.",
    )
    id: UUID | None = Field(default=None, strict=False, description="`None` means a new one.")
    run_immediately: bool = Field(
        default=True, description="False: it stays `created` until a request to run it."
    )

    @model_validator(mode="after")
    def _expires_once(self) -> Self:
        if self.expires_at is not None and self.expires_in_s is not None:
            raise ValueError("expires_at and expires_in_s are both given: leave one out")
        return self


EventEffect: TypeAlias = Literal["resumed", "kept", "duplicate"]
"""What an event has done: ``resumed`` the task that waited for it, or it is ``kept`` until the task does. A
``duplicate`` has done nothing: the task has had an event of this name.
"""


@dataclass(frozen=True, slots=True)
class Settled:
    """The effect of a settlement on each task."""

    statuses: dict[str, Status]
    """New status by task id, for the outcomes that were accepted."""
    stale: list[str]
    """Ids of tasks whose claim was no longer the newest. Nothing was written for them."""
    snoozed: int = 0
    """Number of tasks that their handlers put off, and that wait again."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The effect of a cancel on each task."""

    cancelled: list[UUID]
    """Tasks that waited. They will never run."""
    requested: list[UUID]
    """Tasks that run. Their lanes are notified."""
    unchanged: list[UUID]
    """Tasks that had ended, or do not exist."""


def _pattern(text: str) -> str:
    if (len(text) - len(text.rstrip("\\"))) % 2:
        raise ValueError("ends with a backslash that escapes nothing: write two")
    return text


class RedriveFilter(BaseModel, defer_build=True):
    """Conditions that select finished tasks to redrive. A task must match all of them."""

    model_config = ConfigDict(extra="forbid")

    type: Text | None = Field(default=None, max_length=200)
    domain: Text | None = Field(default=None, max_length=200)
    error: Annotated[Text, AfterValidator(_pattern)] | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="SQL LIKE pattern of the whole error: % is any text, _ any character.",
    )
    since: Moment | None = Field(default=None, description="Finished then or later.")
    until: Moment | None = Field(default=None, description="Finished then or before. `None` means until now.")
    cancelled: bool = Field(default=False, description="Also cancelled tasks, not only dead letters.")

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Return a filter with these fields.

        Raises:
            ConfigurationError: One of them is wrong.
        """
        try:
            return cls(**fields)
        except ValidationError as wrong:
            raise ConfigurationError(first_error(wrong), "choose another value") from None

    @property
    def statuses(self) -> tuple[Finished, ...]:
        """Return the statuses of the tasks to redrive."""
        return ("failed", "cancelled") if self.cancelled else ("failed",)


@dataclass(slots=True)
class Redriven:
    """The effect of a redrive."""

    audit: UUID
    """Id of its row in the table ``task_audit``."""
    redriven: int = 0
    kept_out: int = 0
    """Tasks left as they were: an unfinished task of their type has the same ``dedup_key``."""


@dataclass(frozen=True, slots=True)
class Retried:
    """The effect of a retry on each task."""

    retried: list[UUID]
    """Tasks that are queued again, with fresh attempts."""
    unchanged: list[UUID]
    """Tasks that have not ended, have completed, or do not exist."""
    duplicates: list[UUID]
    """Tasks left as they were: another unfinished task of their type has their ``dedup_key``."""


class TaskFilter(BaseModel, defer_build=True):
    """Conditions that select tasks. A task must match all of them."""

    model_config = ConfigDict(extra="forbid")

    status: list[Status] = Field(default=[], description="In one of these statuses. Empty means any.")
    type: Text | None = Field(default=None, max_length=200)
    domain: Text | None = Field(default=None, max_length=200)
    created_since: Moment | None = Field(default=None, description="Created at this moment or later.")
    created_until: Moment | None = Field(default=None, description="Created before this moment.")
    error: Text | None = Field(
        default=None,
        min_length=1,
        max_length=500,
        description="With this text in the error, in upper or lower case.",
    )
    dedup_key: Text | None = Field(default=None, min_length=1, max_length=200)
    organ: Text | None = Field(
        default=None, min_length=1, max_length=200, description="Last run by the organ with this id."
    )
    lane: Text | None = Field(
        default=None, min_length=1, max_length=200, description="Held by the lane with this id."
    )
    key: Text | None = Field(default=None, min_length=1, max_length=200)
    run: Text | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Held by a lane of this run of dispatch. Tasks that have ended are held by none.",
    )

    def parameters(self) -> dict[str, Any]:
        """Return the values as parameters of the statements that filter tasks."""
        # Not the fields that a subclass adds.
        values = {name: getattr(self, name) for name in TaskFilter.model_fields}
        return {"statuses": values.pop("status"), **values}


PausedKind: TypeAlias = Literal["type", "domain"]


class Pause(BaseModel, defer_build=True):
    """A type or domain none of whose tasks is claimed."""

    kind: PausedKind
    name: str
    reason: str | None
    paused_at: datetime


class TypePolicy(BaseModel, defer_build=True):
    """Retries, timeouts and order of the tasks of a type, unless a task says otherwise."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    type: Annotated[Text, Field(min_length=1, max_length=200, pattern=r"\S")]
    max_attempts: Annotated[int, Field(ge=1, le=1000), WHOLE] | None = Field(
        default=None, description="`None` means 5."
    )
    timeout_s: float | None = Field(default=None, gt=0, description="`None` means the organ's timeout.")
    backoff_base_s: float | None = Field(default=None, gt=0, description="`None` means the queue's.")
    backoff_cap_s: float | None = Field(default=None, gt=0, description="`None` means the queue's.")
    max_interruptions: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = Field(
        default=None,
        description="Interruptions after which a task is a dead letter. `None` means no limit.",
    )
    max_snoozes: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = Field(
        default=None,
        description="How often a handler may put a task off before it is a dead letter. `None` means 100.",
    )
    cost: float | None = Field(
        default=None, ge=0, le=1e15, description="Estimate of what a task spends. `None` means 1."
    )
    key_path: ParamsPath | None = Field(
        default=None,
        description="Where the params of a task have its key, if its producer gives none: "
        "`params.customer_id`. A text or number. `None` means nowhere.",
    )
    cost_path: ParamsPath | None = Field(
        default=None,
        description="Where the params of a task have its cost, if its producer gives none: "
        "`params.max_tokens`. A number. `None` means nowhere.",
    )
    aging_s: float | None = Field(
        default=None,
        gt=0,
        le=366 * 86400,
        description="Seconds of waiting that count as much as one more priority. `None` means that none do.",
    )
    affinity_s: float | None = Field(
        default=None,
        gt=0,
        le=86400,
        description="Tasks of one key run together: how long those of a key without a turn may wait for "
        "theirs, in seconds. `None` means that keys share every claim.",
    )
    affinity_keys: Annotated[int, Field(ge=1, le=1000), WHOLE] | None = Field(
        default=None, description="Keys that a lane claims at a time, with `affinity_s`. `None` means 2."
    )
    earliest_deadline: bool = Field(
        default=False,
        description="Of tasks of one priority, domain and key, that which expires first is claimed first.",
    )
    timeout_by_deadline: bool = Field(
        default=False,
        description="An attempt is stopped when its task expires, if its timeout has not done so before.",
    )

    @model_validator(mode="after")
    def _keys_of_an_affinity(self) -> Self:
        if self.affinity_keys is not None and self.affinity_s is None:
            raise ValueError("affinity_keys needs affinity_s, the seconds that other keys may wait")
        return self


@dataclass(frozen=True, slots=True)
class Outlook:
    """The kinds of unfinished tasks that exist, and when the next one is due."""

    running: bool
    ready: bool
    backing_off: bool
    next_due_s: float | None
    """Seconds until the next task is due. 0 or less means one is due now. `None` means no task waits."""

    @property
    def empty(self) -> bool:
        """Return True if no task runs, is due or waits for another attempt. Scheduled tasks do not count."""
        return not (self.running or self.ready or self.backing_off)
