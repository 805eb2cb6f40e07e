"""The task queue engine: a table in Postgres, claimed in batches, settled exactly once.

It depends on neither Prefect nor Ray. `Queue` has a store for each kind of operation; `wire` has
everything that is sent elsewhere.
"""

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
from organism_flows.blocks.queue.stores.claim_lines import ClaimLines
from organism_flows.blocks.queue.stores.health import DatabaseState, ReadyTasks
from organism_flows.blocks.queue.stores.line_shares import ClaimLine
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
