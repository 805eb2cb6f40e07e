"""The interface between the manager and everything that runs tasks.

Three things do: an organ on the manager's replica, an organ elsewhere, and the escalation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.execution.jobs import Invocation, Job
from organism_flows.serve_apps.organism.execution.organ_counters import OrganCounters
from organism_flows.serve_apps.organism.handler_api.results import HandlerResult

LINGER_S = 1.0
"""Longest time a cancelled handler may clean up before it counts as abandoned, in seconds."""


@dataclass(slots=True)
class SharedRules:
    """Limits and state that everything that runs tasks of an organism on one replica shares."""

    result_limit_bytes: int
    lingering: dict[str, Invocation] = field(default_factory=dict)
    """Handler calls that were asked to stop and have not ended, by task id."""
    suspect: Invocation | None = None
    """The single suspect that runs on the replica itself, for organs whose suspects get no process."""
    pump: Callable[[], None] = lambda: None
    """Starts what can start now, in every organ."""
    figures: dict[str, OrganCounters] = field(default_factory=dict)
    """Counters by organ id."""

    def ended(self, run: Invocation) -> None:
        """Forget a handler call that has ended, and start what waited for that."""
        for task in run.tasks:
            if self.lingering.get(task["task_id"]) is run:
                del self.lingering[task["task_id"]]
        waiters, run.waiters = run.waiters, []
        for waiter in waiters:
            waiter()

    def figures_of(self, organ_id: str) -> OrganCounters:
        """Return the counters of an organ; those from before a reconfiguration, if there are any."""
        return self.figures.setdefault(organ_id, OrganCounters())


class JobRunner(Protocol):
    """Runs jobs, on the event loop only. Reports each job to its call once, unless it is dropped before."""

    @property
    def idle(self) -> bool:
        """Return True if nothing runs or waits."""
        ...

    @property
    def abandoned(self) -> int:
        """Return the number of handler calls on this replica that were asked to stop and go on."""
        ...

    @property
    def problem(self) -> str | None:
        """Return why the replica should be replaced; `None` means it should not."""
        ...

    def submit(self, jobs: Iterable[Job]) -> None:
        """Run ``jobs`` as soon as there is room."""
        ...

    def stop(self, jobs: Iterable[Job], ending: HandlerResult) -> None:
        """Report ``ending`` for ``jobs`` at once, and stop them as far as possible."""
        ...

    def recall(self, jobs: Iterable[Job], *, leaving: bool) -> None:
        """Report as ``recalled`` those of ``jobs`` that no handler has begun with.

        Args:
            jobs: The jobs.
            leaving: Also recall jobs that wait for a replica elsewhere.
        """
        ...

    def drop(self, jobs: Iterable[Job]) -> list[asyncio.Task[None]]:
        """Forget ``jobs``, and return the asyncio tasks that are ending and can be awaited."""
        ...

    def pump(self) -> None:
        """Start what can start now."""
        ...

    def close(self) -> None:
        """Give back threads and processes. Nothing may be submitted afterwards."""
        ...

    def status(self) -> dict[str, Any]:
        """Return configuration and counters, as plain data."""
        ...


class OrganRunner(JobRunner, Protocol):
    """A runner that is an organ."""

    config: OrganConfig


CANCELLED_BEFORE = HandlerResult("cancelled", error="cancelled before it started")
CANCELLED = HandlerResult("cancelled", error="cancelled while it ran")
RECALLED = HandlerResult("recalled", error="no handler had begun with it")
