"""Metrics for Prometheus: the tasks by type and status, the lanes, the pauses, the gateway's requests."""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Count
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from organism_flows.blocks.long_work import LongWork
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.models.rows import Depth
from organism_flows.serve_apps.gateway.database import OUTAGE, Database
from organism_flows.serve_apps.gateway.metrics.lane_metrics import lane_metrics
from organism_flows.serve_apps.gateway.metrics.limit_metrics import LimitFigures, limit_metrics, read_limits
from organism_flows.serve_apps.gateway.metrics.organ_metrics import Organs

TYPES_LIMIT = 100
"""Most task types with a label of their own: submitters choose types, and every label is kept for ever."""
LATE_READ = 1000
"""Most tasks that may be late and are read, of those that expire first."""
OTHERS = "(others)"
READ_SHARE = 20
"""Upper bound on the share of time spent counting, as 1/N: a count reads the whole table."""
METHODS = ("GET", "POST")


class Requests:
    """Counter of requests by route. Routes are few, unlike paths."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "organism_gateway_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=registry,
        )

    def count(self, scope: Scope, status: int) -> None:
        """Count a request that was answered with ``status``; 0 means that it was not answered."""
        method = scope["method"] if scope["method"] in METHODS else "(other)"
        route = getattr(scope.get("route"), "path", "(none)")
        self._requests.labels(method, route, status or "(none)").inc()


@dataclass
class QueueFigures:
    """The results of one count of the queue."""

    depths: list[Depth] = field(default_factory=list)
    lanes: dict[str, int] = field(default_factory=dict)
    pauses: dict[str, int] = field(default_factory=dict)
    limits: LimitFigures = field(default_factory=LimitFigures)
    late: dict[str, int] = field(default_factory=dict)
    counted: dict[str, float] = field(default_factory=dict)
    """Counts of the lanes, by name."""
    work: LongWork | None = None
    """`None` means that it has not been read yet."""


class QueueMetrics(Collector):
    """Metrics of the queue, counted when Prometheus asks, within the bound of `READ_SHARE`."""

    def __init__(self, registry: CollectorRegistry, database: Database, organs: Organs) -> None:
        self._database = database
        self.organs = organs
        self._figures: QueueFigures | None = None
        self._due = 0.0
        self._looking = asyncio.Lock()
        self.waiters = Gauge("organism_gateway_waiters", "Requests that wait for a task.", registry=registry)
        registry.register(self)

    async def refresh(self) -> None:
        """Ask the organism, and count the queue again unless the last count was too recent for its cost."""
        async with self._looking:
            await self.organs.refresh()
            started = time.monotonic()
            if started < self._due:
                return
            try:
                self._figures = await _figures(self._database.queue)
                self._due = time.monotonic() + READ_SHARE * (time.monotonic() - started)
            except OUTAGE:
                self._figures = None

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the last count."""
        yield from self.organs.collect()
        figures = self._figures
        yield GaugeMetricFamily(
            "organism_postgres_up", "Whether Postgres answered.", value=0 if figures is None else 1
        )
        if figures is None:
            return
        tasks = GaugeMetricFamily(
            "organism_tasks", "Tasks by type and status; failed are dead letters.", labels=["type", "status"]
        )
        oldest = GaugeMetricFamily(
            "organism_oldest_task_seconds",
            "Seconds since the oldest task of a type and status was due, claimed, created or a dead letter.",
            labels=["type", "status"],
        )
        for depth in figures.depths:
            tasks.add_metric([depth.type, depth.status], depth.tasks)
            if depth.oldest_s is not None:
                oldest.add_metric([depth.type, depth.status], max(depth.oldest_s, 0))
        lanes = GaugeMetricFamily("organism_lanes", "Lanes by state.", labels=["state"])
        for state, number in figures.lanes.items():
            lanes.add_metric([state], number)
        pauses = GaugeMetricFamily("organism_pauses", "What is paused.", labels=["kind"])
        for kind, number in figures.pauses.items():
            pauses.add_metric([kind], number)
        late = GaugeMetricFamily(
            "organism_tasks_late",
            "Waiting tasks that expire before they can begin, in any order, at the rate of their type.",
            labels=["type"],
        )
        for name, number in figures.late.items():
            late.add_metric([name], number)
        yield from (tasks, oldest, lanes, pauses, late, *lane_metrics(figures.counted))
        yield from limit_metrics(figures.limits)
        if figures.work is not None:
            yield from _work_metrics(figures.work)


def exposition(registry: CollectorRegistry) -> bytes:
    """Return every metric, in the text format of Prometheus."""
    return generate_latest(registry)


def _work_metrics(work: LongWork) -> Iterator[Metric]:
    for name, described, value in (
        (
            "suspects",
            "Running tasks that have a process of their own, as a replica died with them.",
            work.suspects,
        ),
        ("interrupted", "Unfinished tasks that were interrupted more than twice.", work.interrupted),
        ("handed_over", "Tasks on replicas that wait for a handler for over a minute.", work.handed_over),
    ):
        yield GaugeMetricFamily(f"organism_tasks_{name}", described, value=value)


async def _figures(queue: Queue) -> QueueFigures:
    lanes = Count({"live": 0, "leaving": 0, "stopping": 0, "silent": 0})
    lanes.update(lane.state for lane in await queue.reader.lanes())
    pauses = Count({"type": 0, "domain": 0})
    pauses.update(pause.kind for pause in await queue.operator.pauses())
    depths = await queue.reader.depths()
    return QueueFigures(
        _folded(depths),
        dict(lanes),
        dict(pauses),
        await read_limits(queue),
        await _late(queue, [one.type for one in depths]),
        await queue.reader.lane_figures(),
        await queue.health.long_work(),
    )


async def _late(queue: Queue, types: Iterable[str]) -> dict[str, int]:
    """Return how many tasks are late by type, 0 included: an alert cannot see what is not there."""
    late = dict.fromkeys(types, 0) | await queue.health.late(at_most=LATE_READ)
    return dict(sorted(late.items(), key=lambda one: -one[1])[:TYPES_LIMIT])


def _folded(depths: list[Depth]) -> list[Depth]:
    """Return the depths of the types with the most tasks, and the others summed up as one type."""
    sizes: Count[str] = Count()
    for depth in depths:
        sizes[depth.type] += depth.tasks
    kept = {name for name, _ in sizes.most_common(TYPES_LIMIT)}
    folded: dict[tuple[str, str], Depth] = {}
    for depth in depths:
        name = depth.type if depth.type in kept else OTHERS
        known = folded.get((name, depth.status))
        ages = [d.oldest_s for d in (known, depth) if d is not None and d.oldest_s is not None]
        folded[name, depth.status] = Depth(
            name, depth.status, depth.tasks + (known.tasks if known else 0), max(ages, default=None)
        )
    return list(folded.values())
