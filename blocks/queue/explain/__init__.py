"""Why a task waits, who holds it, or how it ended; as data and in one line."""

from organism_flows.blocks.queue.explain.answer import explain
from organism_flows.blocks.queue.explain.held import begun_at
from organism_flows.blocks.queue.explain.why import (
    Forecast,
    LineForecast,
    QueueSituation,
    Reason,
    RunningOfType,
    Why,
)

__all__ = [
    "Forecast",
    "LineForecast",
    "QueueSituation",
    "Reason",
    "RunningOfType",
    "Why",
    "begun_at",
    "explain",
]
