"""Tasks as clients send them, one or a batch, checked field by field."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.json_text import JsonTooLong, NotJson, to_json
from organism_flows.blocks.queue.wire import BATCH_COLUMNS, Batch
from organism_flows.blocks.validation import first_error
from organism_flows.serve_apps.organism.handler_api.errors import describe, harmless

PARAMS_LIMIT_BYTES = 10_000_000


class InvalidTask(Exception):
    """Error: a task cannot be run. The message names the field and the reason."""


class ParamsTooLong(InvalidTask):
    """Error: the JSON text of the params is longer than `PARAMS_LIMIT_BYTES`."""


class TaskRequest(BaseModel):
    """The fields of a task; only ``type`` is required."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: str = Field(min_length=1, description="Which handler runs it.")
    task_id: str = Field(default_factory=lambda: str(uuid4()), description="Fresh when not given.")
    params: dict[str, Any] = Field(default_factory=dict, description="What the handler gets.")
    claim: int = Field(default=0, ge=0, description="Claim token; 0: it was not claimed.")
    attempt: int = Field(default=1, ge=1, description="1 for the first.")
    description: str | None = None
    domain: str | None = None
    drift_score: float = Field(default=0.0, allow_inf_nan=False)
    timeout_s: float | None = Field(default=None, gt=0, le=604_800, allow_inf_nan=False)

    def as_batch(self) -> Batch:
        """Return a batch of this one task.

        Raises:
            ParamsTooLong: The params are too long.
            InvalidTask: The params are not JSON.
        """
        try:
            params = to_json(self.params, limit_bytes=PARAMS_LIMIT_BYTES)
        except NotJson as error:
            kind = ParamsTooLong if isinstance(error, JsonTooLong) else InvalidTask
            raise kind(str(error).replace("$", "params", 1)) from None
        return Batch(
            [self.task_id],
            [self.claim],
            [self.attempt],
            [self.type],
            [params],
            [self.description],
            [self.domain],
            [self.drift_score],
            [self.timeout_s],
            [0],
            [False],
            [None],
        )


def parse_task(raw: Any) -> TaskRequest:
    """Return the task in plain data.

    Raises:
        InvalidTask: A field is missing, unknown or wrong.
    """
    if not isinstance(raw, dict):
        raise InvalidTask(f"task is a {type(raw).__name__}, not a mapping of fields")
    try:
        return TaskRequest.model_validate(raw)
    except ValidationError as error:
        raise InvalidTask(harmless(first_error(error, with_value=True))) from None


def refused(raw: Any, why: str) -> dict[str, Any]:
    """Return the outcome of a task that no handler saw."""
    task_id = raw.get("task_id") if isinstance(raw, dict) else None
    return {
        "task_id": task_id if isinstance(task_id, str) else None,
        "success": False,
        "result": None,
        "error": why,
        "retryable": False,
        "path": "fast",
        "organ_id": None,
        "elapsed_ms": 0.0,
    }


def open_wire(wire: dict[str, Any]) -> Batch:
    """Return the batch that came over the wire.

    Raises:
        ConfigurationError: It is no batch, is of another version, or has columns of different lengths.
    """
    next_step = "run the same organism-flows version on lanes and replicas"
    try:
        batch = Batch.from_wire(wire)
        lengths = {name: len(getattr(batch, name)) for name in BATCH_COLUMNS}
    except ValueError as error:
        raise ConfigurationError(str(error).partition(": run ")[0], next_step) from None
    except Exception as error:
        raise ConfigurationError(f"not a batch: {describe(error)}", next_step) from None
    if len(set(lengths.values())) > 1:
        raise ConfigurationError(f"the columns of the batch differ in length: {lengths}", next_step)
    return batch
