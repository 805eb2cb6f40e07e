"""The metrics of a gateway, asked of one whose organism answers."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from docs.generate.rendering import code, table
from organism_flows.blocks.organism_reports import StatusReport
from organism_flows.blocks.queue import NewTask
from organism_flows.serve_apps.gateway.database import Database
from organism_flows.serve_apps.gateway.metrics.metrics import QueueMetrics, Requests
from organism_flows.serve_apps.gateway.metrics.organ_metrics import Organs

LOAD = {"in_flight": 0, "waiting": 0, "suspects": 0, "lingering": 0}


class AnsweringOrganism:
    """An organism with one organ."""

    async def status(self) -> StatusReport:
        """Return the load of its organ."""
        return StatusReport.of({"status": "healthy", "replica": "r", "organs": {"o": LOAD}})

    async def running(self) -> Any:
        """Return what its replica does."""
        return {"replicas": [{"replica": "r", "draining": False, "organs": {"o": LOAD}}]}


async def text(dsn: str) -> str:
    """Return a table of every metric of the gateway."""
    registry = CollectorRegistry()
    requests = Requests(registry)
    requests.count({"method": "GET"}, 200)
    organism: Any = AnsweringOrganism()
    async with Database(dsn) as database:
        await database.queue.submit([NewTask(type="t")])
        metrics = QueueMetrics(registry, database, Organs(organism))
        await metrics.refresh()
    rows = []
    for metric in registry.collect():
        labels = sorted({label for sample in metric.samples for label in sample.labels})
        suffix = "_total" if metric.type == "counter" else ""
        rows.append(
            [code(metric.name + suffix), metric.type, ", ".join(map(code, labels)), metric.documentation]
        )
    return table(["metric", "type", "labels", "what it is"], sorted(rows))
