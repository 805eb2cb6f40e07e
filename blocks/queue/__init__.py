"""The task queue engine: a table in Postgres, claimed in batches, settled exactly once.

It knows neither Prefect nor Ray. `Queue` is the whole of it; everything that travels is in `wire`.
"""

from blocks.queue.lane_models import LaneRow, Reaped
from blocks.queue.lines import Line, Lines
from blocks.queue.migrate import migrate
from blocks.queue.models import (
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
from blocks.queue.queue import Queue
from blocks.queue.why import Why
from blocks.queue.wire import Batch, Cause, Outcomes

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
