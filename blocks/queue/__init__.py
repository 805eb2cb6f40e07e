"""The task queue engine: a table in Postgres, claimed in batches, settled exactly once.

It knows neither Prefect nor Ray. `Queue` is the whole of it; everything that travels is in `wire`.
"""

from blocks.queue.migrate import migrate
from blocks.queue.models import (
    FINISHED,
    LaneRow,
    NewTask,
    Outlook,
    Reaped,
    Settled,
    Status,
    TaskLine,
    TaskResult,
    TaskRow,
)
from blocks.queue.queue import Queue
from blocks.queue.wire import Batch, Cause, Outcomes

__all__ = [
    "FINISHED",
    "Batch",
    "Cause",
    "LaneRow",
    "NewTask",
    "Outcomes",
    "Outlook",
    "Queue",
    "Reaped",
    "Settled",
    "Status",
    "TaskLine",
    "TaskResult",
    "TaskRow",
    "migrate",
]
