"""New tasks as rows of the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from uuid_utils.compat import uuid7

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.models.fields import encoded
from organism_flows.blocks.queue.models.operations import NewTask

COLUMNS = (
    "id",
    "type",
    "params",
    "description",
    "domain",
    "drift_score",
    "priority",
    "run_after",
    "max_attempts",
    "timeout_s",
    "dedup_key",
    "status",
    "key",
    "expires_at",
    "cost",
    "traceparent",
)


def task_row(
    task: NewTask, moment: datetime | None = None, *, traceparent: str | None = None
) -> tuple[Any, ...]:
    """Return the values of a task for `COLUMNS`.

    Args:
        task: Task to add.
        moment: When it is added, by the database's clock: then it is due, unless it has a time of its own.
            `None` leaves that empty; not for a task with ``expires_in_s``.
        traceparent: Its trace context, unless it has one of its own.
    """
    return (
        # Ids that grow with time: a claim or settlement of 500 then touches neighbouring pages.
        task.id or uuid7(),
        task.type,
        encoded(task.params).text,
        task.description,
        task.domain,
        task.drift_score,
        task.priority,
        task.run_after or moment,
        task.max_attempts,
        task.timeout_s,
        task.dedup_key,
        "queued" if task.run_immediately else "created",
        task.key,
        _expires_at(task, moment),
        task.cost,
        task.traceparent or traceparent,
    )


def as_columns(rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Return rows as the parameters of ``submit.sql`` and ``load_missing.sql``."""
    return dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))


@contextmanager
def paths_refused() -> Iterator[None]:
    """Raise the one line for a task whose params hold no key or cost where the policy of its type says.

    Raises:
        ConfigurationError: Its text names the type, the path and what is there.
    """
    try:
        yield
    except asyncpg.CheckViolationError as error:
        if error.constraint_name != "tasks_read_paths":
            raise
        raise ConfigurationError(
            error.args[0], "give the task a key or cost, or correct `organism tasks policy`"
        ) from None


def _expires_at(task: NewTask, moment: datetime | None) -> datetime | None:
    if task.expires_in_s is None:
        return task.expires_at
    assert moment is not None
    return moment + timedelta(seconds=task.expires_in_s)
