"""The task queue engine: a table in Postgres, claimed in batches, settled exactly once.

It knows neither Prefect nor Ray. `Queue` is the whole of it; everything that travels is in `wire`.
"""

from organism_flows.blocks.queue.db.migrate import migrate
from organism_flows.blocks.queue.explain import Why
from organism_flows.blocks.queue.lane_models import LaneRow, Reaped
from organism_flows.blocks.queue.models import (
    FINISHED,
    Cancelled,
    Depth,
    NewTask,
    Outlook,
    Pause,
    Redrivable,
    RedriveFilter,
    Redriven,
    Retried,
    Settled,
    Status,
    TaskFilter,
    TaskLine,
    TaskResult,
    TaskRow,
    TaskState,
    TypePolicy,
)
from organism_flows.blocks.queue.queue import Queue
from organism_flows.blocks.queue.stores.claim_lines import Line, Lines
from organism_flows.blocks.queue.wire import Batch, Cause, Outcomes

__all__ = [
    "FINISHED",
    "Batch",
    "Cancelled",
    "Cause",
    "Depth",
    "LaneRow",
    "Line",
    "Lines",
    "NewTask",
    "Outcomes",
    "Outlook",
    "Pause",
    "Queue",
    "Reaped",
    "Redrivable",
    "RedriveFilter",
    "Redriven",
    "Retried",
    "Settled",
    "Status",
    "TaskFilter",
    "TaskLine",
    "TaskResult",
    "TaskRow",
    "TaskState",
    "TypePolicy",
    "Why",
    "migrate",
]
