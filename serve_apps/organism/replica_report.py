"""The health and the status of an organism on one replica."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

from organism_flows.blocks.organism_reports import EnvironmentReport, HealthReport, OrganReport, StatusReport
from organism_flows.blocks.queue.wire import WIRE_VERSION
from organism_flows.blocks.versions import package_version
from organism_flows.serve_apps.organism.assembly import Assemblies
from organism_flows.serve_apps.organism.escalation.drift import DriftMonitor
from organism_flows.serve_apps.organism.execution.local.local_organ import LocalOrgan
from organism_flows.serve_apps.organism.execution.open_calls import OpenCalls
from organism_flows.serve_apps.organism.execution.organ_status import load
from organism_flows.serve_apps.organism.execution.shared_state import SharedState
from organism_flows.serve_apps.organism.replica_environment import environment

ABANDONED_LIMIT = 32
"""Most handler calls (a thread or task each) that outlive their timeouts before a replica is unhealthy."""
TOTALS = (
    "in_flight",
    "waiting",
    "abandoned",
    "completed",
    "failed",
    "rejected",
    "timed_out",
    "cancelled",
    "interrupted",
)
"""Counts of the organs that the status also has as sums."""


class ReplicaReport:
    """Reports of one replica.

    Args:
        replica: Name of the replica.
        assemblies: Its organs.
        calls: The calls under way on it.
        shared: What its organs share.
        drift: Its drift monitor.
    """

    def __init__(
        self,
        replica: str,
        assemblies: Assemblies,
        calls: OpenCalls,
        shared: SharedState,
        drift: DriftMonitor,
    ) -> None:
        self._replica = replica
        self._assemblies = assemblies
        self._calls = calls
        self._shared = shared
        self._drift = drift
        self._started = time.monotonic()

    def health(self) -> HealthReport:
        """Return whether it serves; see `OrganismManager.health`."""
        problem, refused = self.problem(), self._assemblies.refused
        return HealthReport(
            status="unhealthy" if problem else "degraded" if refused else "healthy",
            organism_initialized=self._assemblies.current is not None,
            problem=problem,
            refused_configuration=refused,
            uptime_s=round(time.monotonic() - self._started, 3),
            pid=os.getpid(),
            replica=self._replica,
            version=package_version(),
            wire_version=WIRE_VERSION,
        )

    def status(self) -> StatusReport:
        """Return what it serves and has done; see `OrganismManager.status`."""
        assembly, config = self._assemblies.current, self._assemblies.config
        organs = {organ.config.id: organ.status() for organ in self._assemblies.organs}
        return StatusReport(
            **dict(self.health()),
            task_types=list(assembly.router.types) if assembly else [],
            organs={name: OrganReport.model_validate(organ) for name, organ in organs.items()},
            totals={name: sum(one[name] for one in organs.values()) for name in TOTALS} if organs else {},
            draining=self._calls.draining,
            lingering=len(self._shared.lingering),
            retiring_organs=len(self._assemblies.retiring),
            escalation=assembly.escalation.status() if assembly and assembly.escalation else None,
            drift=self._drift.status(config.escalation if config else None),
            environment=EnvironmentReport.model_validate(environment()),
            config=config.model_dump(mode="json") if config else None,
        )

    def running(self) -> dict[str, Any]:
        """Return what runs here, by organ; see `OrganismManager.running`."""
        left_behind = Counter(run.organ_id for run in set(self._shared.lingering.values()))
        here = [organ for organ in self._assemblies.organs if isinstance(organ, LocalOrgan)]
        organs = {organ.config.id: load(organ.status(), left_behind[organ.config.id]) for organ in here}
        return {"replica": self._replica, "draining": self._calls.draining, "organs": organs}

    def problem(self) -> str | None:
        """Return why the replica should be replaced; `None` means it should not."""
        now = time.monotonic()
        # Calls that were asked to stop before their timeout may still notice that, and end.
        hung = sum(now > run.started + run.timeout_s for run in set(self._shared.lingering.values()))
        if hung > ABANDONED_LIMIT:
            return f"{hung} handler calls hang and cannot be stopped, more than {ABANDONED_LIMIT}"
        return next((runner.problem for runner in self._assemblies.runners if runner.problem), None)
