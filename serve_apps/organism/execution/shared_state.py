"""Limits and state that everything that runs tasks on one replica shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from organism_flows.serve_apps.organism.execution.jobs import Invocation
from organism_flows.serve_apps.organism.execution.organ_status import OrganCounters


@dataclass(slots=True)
class SharedState:
    """Limits and state of an organism on one replica, across its organs."""

    result_limit_bytes: int
    lingering: dict[str, Invocation] = field(default_factory=dict)
    """Handler calls that were asked to stop and have not ended, by task id."""
    suspect: Invocation | None = None
    """The single suspect that runs on the replica itself, for organs whose suspects get no process."""
    pump: Callable[[], None] = lambda: None
    """Starts what can start now, in every organ."""
    counters: dict[str, OrganCounters] = field(default_factory=dict)
    """Counters by organ id."""

    def ended(self, run: Invocation) -> None:
        """Forget a handler call that has ended, and start what waited for that."""
        for task in run.tasks:
            if self.lingering.get(task["task_id"]) is run:
                del self.lingering[task["task_id"]]
        waiters, run.waiters = run.waiters, []
        for waiter in waiters:
            waiter()

    def counters_of(self, organ_id: str) -> OrganCounters:
        """Return the counters of an organ; those from before a reconfiguration, if there are any."""
        return self.counters.setdefault(organ_id, OrganCounters())
