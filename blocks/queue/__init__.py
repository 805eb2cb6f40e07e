"""The task queue engine: a table in Postgres, claimed in batches, settled exactly once.

It depends on neither Prefect nor Ray. `Queue` has a store for each kind of operation; `wire` has
everything that is sent elsewhere. Its names are imported when they are first used: whoever needs one
model does not load the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from organism_flows.blocks.lazy_names import lazily_imported

if TYPE_CHECKING:
    from organism_flows.blocks.queue.db.migrate import migrate
    from organism_flows.blocks.queue.explain import Why
    from organism_flows.blocks.queue.models.lanes import LaneRow, ReapResult
    from organism_flows.blocks.queue.models.limits import Closing, Closure, ClosureName, Limit, LimitUse
    from organism_flows.blocks.queue.models.operations import (
        FINISHED,
        Cancelled,
        NewTask,
        Outlook,
        Pause,
        RedriveFilter,
        Redriven,
        Retried,
        Settled,
        Status,
        TaskFilter,
        TypePolicy,
    )
    from organism_flows.blocks.queue.models.rows import (
        Depth,
        Redrivable,
        TaskResult,
        TaskRow,
        TaskState,
        TaskSummary,
    )
    from organism_flows.blocks.queue.queue import Queue
    from organism_flows.blocks.queue.stores.claiming.claim_lines import ClaimLines
    from organism_flows.blocks.queue.stores.claiming.line_shares import ClaimLine
    from organism_flows.blocks.queue.stores.health import DatabaseState, LineWait, ReadyTasks
    from organism_flows.blocks.queue.wire import Batch, Cause, Outcomes

__all__ = [
    "FINISHED",
    "Batch",
    "Cancelled",
    "Cause",
    "ClaimLine",
    "ClaimLines",
    "Closing",
    "Closure",
    "ClosureName",
    "DatabaseState",
    "Depth",
    "LaneRow",
    "Limit",
    "LimitUse",
    "LineWait",
    "NewTask",
    "Outcomes",
    "Outlook",
    "Pause",
    "Queue",
    "ReadyTasks",
    "ReapResult",
    "Redrivable",
    "RedriveFilter",
    "Redriven",
    "Retried",
    "Settled",
    "Status",
    "TaskFilter",
    "TaskResult",
    "TaskRow",
    "TaskState",
    "TaskSummary",
    "TypePolicy",
    "Why",
    "migrate",
]

_MODULES = {
    "Batch": "wire",
    "Cancelled": "models.operations",
    "Cause": "wire",
    "ClaimLine": "stores.claiming.line_shares",
    "ClaimLines": "stores.claiming.claim_lines",
    "Closing": "models.limits",
    "Closure": "models.limits",
    "ClosureName": "models.limits",
    "DatabaseState": "stores.health",
    "Depth": "models.rows",
    "FINISHED": "models.operations",
    "LaneRow": "models.lanes",
    "Limit": "models.limits",
    "LimitUse": "models.limits",
    "LineWait": "stores.health",
    "NewTask": "models.operations",
    "Outcomes": "wire",
    "Outlook": "models.operations",
    "Pause": "models.operations",
    "Queue": "queue",
    "ReadyTasks": "stores.health",
    "ReapResult": "models.lanes",
    "Redrivable": "models.rows",
    "RedriveFilter": "models.operations",
    "Redriven": "models.operations",
    "Retried": "models.operations",
    "Settled": "models.operations",
    "Status": "models.operations",
    "TaskFilter": "models.operations",
    "TaskResult": "models.rows",
    "TaskRow": "models.rows",
    "TaskState": "models.rows",
    "TaskSummary": "models.rows",
    "TypePolicy": "models.operations",
    "Why": "explain",
    "migrate": "db.migrate",
}


def __getattr__(name: str) -> Any:
    return lazily_imported(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
