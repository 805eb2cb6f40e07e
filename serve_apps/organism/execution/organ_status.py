"""What an organ on a replica tells of itself, as plain data."""

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
    figures: OrganCounters,
    runs: Sequence[Invocation],
    *,
    waiting: int,
    suspects: int,
    abandoned: int,
) -> dict[str, Any]:
    """Return the configuration and figures of an organ.

    Args:
        config: Of the organ.
        handler: Of the organ.
        figures: What it has done.
        runs: Its handler calls.
        waiting: Jobs that wait for one.
        suspects: Suspects in handlers.
        abandoned: Handler calls that were told to stop, and cannot be stopped.
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
        **figures.report(),
    }


def load(status: dict[str, Any], lingering: int) -> dict[str, Any]:
    """The part of a status that whoever is about to replace the replica wants to know.

    Args:
        lingering: Handler calls that were told to stop and go on.
    """
    return {
        **{name: status[name] for name in ("in_flight", "waiting", "suspects", "drain_s")},
        "lingering": lingering,
        "longest_s": max((one["seconds"] for one in status["longest"]), default=None),
    }
