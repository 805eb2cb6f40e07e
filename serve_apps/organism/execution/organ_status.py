"""What an organ on a replica tells of itself, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from organism_flows.serve_apps.organism.execution.jobs import Invocation, longest

if TYPE_CHECKING:
    from organism_flows.serve_apps.organism.execution.local_organ import LocalOrgan


def organ_status(
    organ: LocalOrgan, runs: Sequence[Invocation], waiting: int, suspects: int
) -> dict[str, Any]:
    """Configuration and figures of an organ.

    Args:
        runs: Its handler calls.
        waiting: Jobs that wait for one.
        suspects: Suspects in handlers.
    """
    return {
        **organ.config.model_dump(mode="json"),
        "form": "async" if organ.handler.is_async else "sync",
        "in_flight": sum(len(run.jobs) for run in runs),
        "waiting": waiting,
        "suspects": suspects,
        "abandoned": organ.abandoned,
        "longest": longest(runs),
        "agents": organ.handler.agents.status() if organ.handler.agents else [],
        **organ.figures.report(),
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
