"""The status of an organ on a replica, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.execution.jobs import Invocation, longest
from organism_flows.serve_apps.organism.execution.organ_counters import OrganCounters
from organism_flows.serve_apps.organism.handler_api.handler import Handler


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
