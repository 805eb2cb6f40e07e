"""Objects on the table of tasks in addition to those of the migrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from organism_flows.blocks.queue.db.connection import connect
from organism_flows.blocks.queue.db.statements import statement

READ_TIMEOUT = 30.0

OURS = frozenset(
    {
        "tasks_pkey",
        "tasks_lines",
        "tasks_lines_oldest",
        "tasks_held",
        "tasks_backing_off",
        "tasks_cancelling",
        "tasks_dedup",
        "tasks_finished",
        "tasks_interrupted",
        "tasks_expiring",
        "tasks_by_deadline",
        "tasks_type_is_not_empty",
        "tasks_params_is_an_object",
        "tasks_drift_score_is_finite",
        "tasks_max_attempts_is_positive",
        "tasks_timeout_s_is_positive",
        "tasks_cost_is_plausible",
        "tasks_running_is_held",
        "tasks_due_now",
        "tasks_begin_waiting",
        "tasks_wake_on_insert",
        "tasks_wake_on_ready",
        "tasks_counters_are_plausible",
        "tasks_names_are_short",
        "tasks_moments_are_plausible",
        "tasks_know_paths",
        "tasks_read_paths",
        "task_attempts.task_attempts_task_id_fkey",
        "task_checkpoints.task_checkpoints_task_id_fkey",
        "task_chunks.task_chunks_task_id_fkey",
        "task_waits.task_waits_task_id_fkey",
        "task_events.task_events_task_id_fkey",
    }
)
"""Objects that the migrations attach to the table."""

Kind: TypeAlias = Literal[
    "index",
    "check",
    "foreign key",
    "unique constraint",
    "foreign key of another table",
    "trigger",
    "view",
    "materialized view",
    "rule",
    "policy",
]
COSTS: dict[Kind, str] = {
    "index": "written by each insert, claim and settlement",
    "unique constraint": "its index is written by each insert, claim and settlement, and may refuse one",
    "check": "checked by each insert, claim and settlement, and it may refuse one",
    "foreign key": "checked by each insert, and it may refuse a task",
    "foreign key of another table": "checked by each deletion, and it may keep tasks from being pruned",
    "trigger": "may run at each insert, claim and settlement",
    "view": "costs nothing until it is read",
    "materialized view": "costs nothing until it is refreshed",
    "rule": "rewrites the statements of the queue",
    "policy": "may hide tasks from lanes that do not own the table",
}


@dataclass(frozen=True, slots=True)
class Attached:
    """An object on the table of tasks that is not from a migration."""

    kind: Kind
    name: str
    bytes: int
    cost: str
    drop: str
    """Statement that drops it."""


async def left_in_place(dsn: str) -> list[Attached]:
    """Return the objects on the table of tasks that are not from a migration.

    Args:
        dsn: Postgres connection URL.

    Raises:
        QueueUnavailable: Postgres cannot be reached or refuses the connection.
    """
    connection = await connect(dsn)
    try:
        rows = await connection.fetch(statement("attached").text, timeout=READ_TIMEOUT)
    finally:
        await connection.close()
    return [
        Attached(row["kind"], row["name"], row["bytes"] or 0, COSTS[row["kind"]], row["drop"])
        for row in rows
        if row["name"] not in OURS
    ]
