"""Messages between the gateway and its clients, in addition to the queue's own models."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from organism_flows.blocks.queue.models.fields import WHOLE, TaskParams, TaskType, Text
from organism_flows.blocks.queue.models.operations import (
    FINISHED,
    NewTask,
    Pause,
    PausedKind,
    RedriveFilter,
    Status,
    TaskFilter,
)
from organism_flows.blocks.queue.models.rows import TaskRow, TaskState, TaskSummary

TASKS_LIMIT = 10_000
"""Most tasks of one submission, and of one wait."""
PAGE_LIMIT = 500
WAIT_LIMIT_S = 300.0
EXPORT_TYPES = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}
"""Media type of an export by format."""
DEADLINE_LIMIT_S = 300.0
PROBLEM_TYPE = "application/problem+json"


PROBLEM_EXAMPLE: dict[str, Any] = {
    "type": "urn:organism:invalid",
    "title": "A value is not acceptable",
    "status": 422,
    "detail": "body.priority: Input should be a valid integer",
    "next_step": None,
    "errors": [
        {
            "field": "body.priority",
            "message": "Input should be a valid integer",
            "value": "high",
        }
    ],
    "candidates": [],
}


JSON = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Configuration of models that are read from JSON. JSON has its own types: `0` is not false, `"5"` is not 5,
and false is not 0."""


def _one_of(*conditions: str, **others: dict[str, Any]) -> dict[str, Any]:
    """Return what a JSON schema needs so that at least one of these fields must be given."""
    given = {**{name: {"type": "string"} for name in conditions}, **others}
    return {"anyOf": [{"required": [name], "properties": {name: how}} for name, how in given.items()]}


def _null(name: str) -> dict[str, Any]:
    """Return what a JSON schema needs so that a field must be left out or null."""
    return {"properties": {name: {"type": "null"}}}


class TaskBody(NewTask):
    """A task to submit."""

    model_config = ConfigDict(
        **JSON, json_schema_extra={"anyOf": [_null("expires_at"), _null("expires_in_s")]}
    )


class Submitted(BaseModel):
    """The outcome for one task of a submission."""

    id: UUID
    deduplicated: bool = Field(
        description="True: it was not added, because the unfinished task of this id has its dedup_key."
    )


class SubmitResult(BaseModel):
    """The outcome for the tasks of a submission, in their order."""

    added: int
    tasks: list[Submitted]


class TaskPage(BaseModel):
    """A page of a list of tasks."""

    tasks: list[TaskSummary]
    next: str | None = Field(description="Cursor of the next page. null: this is the last page.")


class TaskStatus(BaseModel):
    """The current status of a task."""

    id: UUID
    status: Status
    finished: bool = Field(description="It is completed, failed or cancelled.")
    attempts: int
    cancel_requested: bool
    lane: str | None = Field(description="Lane that holds it.")
    fraction: float | None = Field(description="Done share, from 0 to 1, as its handler reports it.")
    note: str | None = Field(description="Progress in words.")

    @classmethod
    def of(cls, task: TaskRow | TaskState) -> TaskStatus:
        """Return the status of ``task``."""
        progress = task.progress if isinstance(task, TaskRow) else task
        return cls(
            id=task.id,
            status=task.status,
            finished=task.status in FINISHED,
            attempts=task.attempts,
            cancel_requested=task.cancel_requested,
            lane=task.locked_by if isinstance(task, TaskRow) else task.lane,
            fraction=progress.fraction if progress else None,
            note=progress.note if progress else None,
        )


class WaitResult(BaseModel):
    """The outcome of a task that was waited for, or its status when the time was up."""

    id: UUID
    type: str
    status: Status
    finished: bool = Field(description="False: the time was up before the task had ended.")
    result: Any = None
    error: str | None
    attempts: int
    finished_at: datetime | None
    elapsed_ms: float | None

    @classmethod
    def of(cls, task: TaskRow) -> WaitResult:
        """Return the outcome of ``task``."""
        fields = task.model_dump(include=set(cls.model_fields), exclude={"result"})
        return cls(**fields, result=task.result, finished=task.status in FINISHED)


class WaitRequest(BaseModel):
    """Tasks to wait for."""

    model_config = JSON

    ids: list[Annotated[UUID, Field(strict=False)]] = Field(
        min_length=1, max_length=TASKS_LIMIT, fail_fast=True, description="Whole ids."
    )
    timeout: float = Field(default=30, ge=0, le=WAIT_LIMIT_S, description="Longest wait in seconds.")


class MissingTask(BaseModel):
    """A task that was waited for and does not exist, or not any more."""

    id: UUID
    gone: Literal[True]


class TaskActionResult(BaseModel):
    """The effect of cancel, run or retry."""

    id: UUID
    outcome: Literal["cancelled", "requested", "queued", "unchanged"] = Field(
        description="requested: it runs, and its handler is asked to stop. unchanged: nothing to do."
    )
    status: Status = Field(description="Its status now.")


_CONDITIONS = tuple(name for name in TaskFilter.model_fields if name != "status")
_SOME: dict[str, Any] = {"type": "array", "minItems": 1}


class BulkCancelRequest(TaskFilter):
    """Conditions that select the tasks to cancel; at least one."""

    model_config = ConfigDict(
        **JSON,
        json_schema_extra=_one_of(*_CONDITIONS, status=_SOME),
    )

    dry_run: bool = Field(default=True, description="Only count them.")


class BulkCancelResult(BaseModel):
    """Tasks that were cancelled, or would be."""

    dry_run: bool
    matched: dict[Status, int] = Field(
        description="Unfinished tasks that matched at the beginning, by status."
    )
    cancelled: int = Field(description="Tasks that waited. They will never run.")
    requested: int = Field(description="Tasks that run. Their handlers are asked to stop.")
    complete: bool = Field(description="False: there are more. Send the request again.")
    undo: list[UUID] = Field(
        default=[],
        description="The tasks that waited. `POST /api/tasks/retry` with these `ids` queues them again, due "
        "at once and with fresh attempts. Empty if they are more than 1,000, or some were only created.",
    )


class BulkRetryRequest(TaskFilter):
    """Conditions that select the failed and cancelled tasks to queue again, or their ids."""

    model_config = ConfigDict(
        **JSON,
        json_schema_extra=_one_of(*_CONDITIONS, status=_SOME, ids=_SOME),
    )

    ids: list[Annotated[UUID, Field(strict=False)]] = Field(
        default=[], max_length=1000, description="These tasks, whatever the other conditions are."
    )
    dry_run: bool = Field(default=True, description="Only count them.")


class BulkRetryResult(BaseModel):
    """Tasks that were queued again, or would be."""

    dry_run: bool
    matched: dict[Status, int] = Field(
        description="Failed and cancelled tasks that matched at the beginning, by status. Empty with `ids`."
    )
    retried: int
    kept_out: int = Field(description="Tasks left out: an unfinished task of their type has their dedup_key.")
    complete: bool = Field(description="False: there are more. Send the request again.")


class BulkRedriveRequest(RedriveFilter):
    """Conditions that select the dead letters to queue again; at least one."""

    model_config = ConfigDict(**JSON, json_schema_extra=_one_of("type", "domain", "error", "since", "until"))

    limit: Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE] | None = Field(
        default=None, description="Most tasks, those that finished first. null: all."
    )
    from_start: bool = Field(
        default=False, description="Drop their checkpoints. Else each continues from its newest one."
    )
    dry_run: bool = Field(default=True, description="Only count them, and show some.")


class BulkRedriveResult(BaseModel):
    """Dead letters that were queued again, or would be."""

    dry_run: bool
    found: int | None = Field(description="Dry run only: number of tasks that match.")
    sample: list[TaskSummary] = Field(description="Dry run only: the tasks that finished first.")
    redriven: int
    kept_out: int = Field(description="Tasks left out: an unfinished task of their type has their dedup_key.")
    complete: bool = Field(description="False: there may be more. Send the request again.")
    audit: UUID | None = Field(description="Id of the row in the table task_audit.")


class PauseRequest(BaseModel):
    """A type or domain to pause: none of its tasks is claimed any more."""

    model_config = JSON

    kind: PausedKind
    name: Text = Field(min_length=1, max_length=200)
    reason: Text | None = Field(
        default=None, max_length=1000, description="Shown in the answer why a task waits."
    )


class ResumeRequest(BaseModel):
    """A type or domain to resume: its tasks are claimed again."""

    model_config = JSON

    kind: PausedKind
    name: Text = Field(min_length=1, max_length=200)


class PauseList(BaseModel):
    """Everything that is paused."""

    pauses: list[Pause]


class ResumeResult(BaseModel):
    """The effect of a resume."""

    resumed: bool = Field(description="False: it was not paused.")


class FieldError(BaseModel):
    """An error in one value."""

    field: str = Field(description="Where it is, such as `body.params` or `query.limit`.")
    message: str
    value: Any = Field(default=None, description="The value, shortened.")


class Problem(BaseModel):
    """An error in the format of RFC 9457."""

    model_config = ConfigDict(json_schema_extra={"examples": [PROBLEM_EXAMPLE]})

    type: str = Field(description="Kind of problem: a URN that does not change.")
    title: str
    status: int
    detail: str
    next_step: str | None = Field(default=None, description="What to do now.")
    errors: list[FieldError] = []
    candidates: list[str] = Field(default=[], description="Ids that match an ambiguous prefix.")


class GatewayHealth(BaseModel):
    """The health of the gateway."""

    status: Literal["ok", "degraded"] = Field(
        description="degraded: tasks are accepted and can be read, but none is run at present."
    )
    reason: str | None = Field(default=None, description="Why it is degraded.")


class OrganismHealth(BaseModel):
    """The health of the organism."""

    status: Literal["healthy", "degraded", "unhealthy"]
    reason: str | None = Field(default=None, description="Why it is not healthy.")
    organism: dict[str, Any] | None = Field(description="Its own answer. null: it did not answer.")


class DirectTask(BaseModel):
    """A task for the organism itself, past the queue."""

    model_config = JSON

    type: TaskType
    params: TaskParams = Field(default_factory=dict)
    description: Text | None = None
    domain: Text | None = Field(default=None, max_length=200)
    drift_score: float = 0.0
    timeout_s: float | None = Field(
        default=None, gt=0, le=604_800, description="Timeout of the handler. null: the organ's."
    )
    deadline_s: float = Field(
        default=30.0, gt=0, le=DEADLINE_LIMIT_S, description="Longest wait for the outcome, in seconds."
    )


class DirectOutcome(BaseModel):
    """The outcome of a task that went past the queue."""

    task_id: str
    success: bool
    result: Any = None
    error: str | None
    retryable: bool = Field(description="It failed, and another attempt may succeed.")
    path: str = Field(description="fast: to its organ; escalated: to the planner; fallback: no planner.")
    organ_id: str | None
    elapsed_ms: float | None
