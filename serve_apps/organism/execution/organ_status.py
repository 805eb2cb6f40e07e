"""The status of an organ on a replica, as plain data, with the counters in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, get_args

from organism_flows.blocks.queue.wire import Cause
from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.execution.jobs import Invocation, longest
from organism_flows.serve_apps.organism.handler_api.handler import Handler

SAMPLE = 1000
"""Number of times kept: the quantiles of the last tasks show how an organ is doing now."""


class OrganCounters:
    """Counters of one organ since its replica started. They outlive a reconfiguration."""

    def __init__(self) -> None:
        self.causes: dict[str, int] = dict.fromkeys(get_args(Cause), 0)
        self._elapsed_ms: deque[float] = deque(maxlen=SAMPLE)

    def add(self, cause: Cause, elapsed_ms: float) -> None:
        """Count a task that has ended."""
        self.causes[cause] += 1
        if elapsed_ms:  # else no handler saw it
            self._elapsed_ms.append(elapsed_ms)

    def report(self) -> dict[str, Any]:
        """Return the counters and the quantiles of the times, as plain data."""
        times = sorted(self._elapsed_ms)
        quantiles = {
            name: round(times[int(share * (len(times) - 1))], 3) if times else None
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        }
        return {**self.causes, "latency_ms": {**quantiles, "of_last": len(times)}}


def organ_status(
    config: OrganConfig,
    handler: Handler,
    counters: OrganCounters,
    runs: Sequence[Invocation],
    *,
    waiting: int,
    suspects: int,
    abandoned: int,
) -> dict[str, Any]:
    """Return the configuration and the counters of an organ.

    Args:
        config: Configuration of the organ.
        handler: Handler of the organ.
        counters: Counters of the organ.
        runs: Handler calls under way.
        waiting: Number of jobs that wait for a handler call.
        suspects: Number of suspects in handlers.
        abandoned: Number of handler calls that were asked to stop and cannot be stopped.
    """
    return {
        **config.model_dump(mode="json"),
        "version": config.version or handler.version,
        "form": "async" if handler.is_async else "sync",
        "in_flight": sum(len(run.jobs) for run in runs),
        "waiting": waiting,
        "suspects": suspects,
        "abandoned": abandoned,
        "longest": longest(runs),
        "agents": handler.processes.status() if handler.processes else [],
        **counters.report(),
    }


def load(status: dict[str, Any], lingering: int) -> dict[str, Any]:
    """Return the part of an organ's status that says what replacing the replica would interrupt.

    Args:
        status: Value of `organ_status`.
        lingering: Number of handler calls that were asked to stop and go on.
    """
    return {
        **{name: status[name] for name in ("in_flight", "waiting", "suspects", "drain_s")},
        "lingering": lingering,
        "longest_s": max((one["seconds"] for one in status["longest"]), default=None),
    }
