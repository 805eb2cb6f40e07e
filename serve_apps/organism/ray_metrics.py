"""Metrics of a replica, for Prometheus by way of Ray: tasks by organ and cause, paths, drift.

They are updated at every health check, every 2 s, from counts that are kept anyway. This costs tasks nothing.
"""

from __future__ import annotations

from collections import Counter as Counts
from typing import Any

from ray.serve.metrics import Counter, Gauge


class Telemetry:
    """The metrics of one replica. Serve adds the names of the replica, its deployment and its app."""

    def __init__(self) -> None:
        organ_and_cause: Any = ("organ", "cause")  # Ray's annotation allows one key only
        organ_and_quantile: Any = ("organ", "quantile")
        type_and_domain: Any = ("type", "domain")
        self._tasks = Counter(
            "organism_tasks", "Tasks by organ and how they ended.", tag_keys=organ_and_cause
        )
        self._paths = Counter("organism_paths", "Tasks by the way they went.", tag_keys=("path",))
        self._in_flight = Gauge("organism_in_flight", "Tasks in handlers, by organ.", tag_keys=("organ",))
        self._waiting = Gauge(
            "organism_waiting", "Tasks waiting for handlers, by organ.", tag_keys=("organ",)
        )
        self._suspects = Gauge(
            "organism_suspects", "Tasks in processes of their own, by organ.", tag_keys=("organ",)
        )
        self._lingering = Gauge(
            "organism_lingering",
            "Handlers that were asked to stop and still run, by organ.",
            tag_keys=("organ",),
        )
        self._latency = Gauge(
            "organism_latency_ms",
            "Milliseconds in handlers of the last 1,000 tasks, by organ and quantile.",
            tag_keys=organ_and_quantile,
        )
        self._drift = Gauge("organism_drift_sum", "Sum of drift.", tag_keys=type_and_domain)
        self._told: Counts[tuple[str, ...]] = Counts()
        self._drifting: set[tuple[str, str]] = set()

    def update(self, status: dict[str, Any], causes: tuple[str, ...]) -> None:
        """Update the metrics.

        Args:
            status: Status of the manager.
            causes: The causes that tasks may end with.
        """
        for organ, figures in status["organs"].items():
            for cause in causes:
                self._count(self._tasks, figures[cause], {"organ": organ, "cause": cause})
            self._in_flight.set(figures["in_flight"], {"organ": organ})
            self._waiting.set(figures["waiting"], {"organ": organ})
            # An organ that can have neither leaves them out of its status.
            self._suspects.set(figures.get("suspects", 0), {"organ": organ})
            self._lingering.set(figures.get("lingering", 0), {"organ": organ})
            for quantile in ("p50", "p95", "p99"):
                if (value := figures["latency_ms"][quantile]) is not None:
                    self._latency.set(value, {"organ": organ, "quantile": quantile})
        for path, count in status["drift"]["paths"].items():
            self._count(self._paths, count, {"path": path})
        sums = {(one["type"], one["domain"] or ""): one["sum"] for one in status["drift"]["sums"]}
        for kind, domain in self._drifting | set(sums):
            self._drift.set(sums.get((kind, domain), 0.0), {"type": kind, "domain": domain})
        self._drifting = set(sums)

    def _count(self, counter: Any, total: int, tags: dict[str, str]) -> None:
        key = (counter.info["name"], *tags.values())
        if (more := total - self._told[key]) > 0:
            counter.inc(more, tags)
            self._told[key] = total
