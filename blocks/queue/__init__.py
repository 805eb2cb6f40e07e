"""The task queue engine: a table in Postgres, claimed in batches, settled exactly once.

It knows neither Prefect nor Ray. `Queue` is the whole of it; everything that travels is in `wire`.
"""

from blocks.queue.lines import Line, Lines
from blocks.queue.migrate import migrate
from blocks.queue.models import (
    FINISHED,
    Cancelled,
    LaneRow,
    NewTask,
    Outlook,
    Pause,
    Reaped,
    Redrivable,
    RedriveFilter,
    Redriven,
    Settled,
    Status,
    TaskLine,
    TaskResult,
    TaskRow,
    TypePolicy,
)
from blocks.queue.queue import Queue
from blocks.queue.wire import Batch, Cause, Outcomes

__all__ = [
    "FINISHED",
    "Batch",
    "Cancelled",
    "Cause",
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
    "Settled",
    "Status",
    "TaskLine",
    "TaskResult",
    "TaskRow",
    "TypePolicy",
    "migrate",
]
