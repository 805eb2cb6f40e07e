"""What a manager needs of whatever runs tasks: an organ on its replica, an organ elsewhere, the escalation;
and what it tells them."""

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
"""How long a cancelled handler may clean up before it counts as abandoned."""


@dataclass(slots=True)
class SharedRules:
    """What applies to everything that runs tasks of an organism."""

    result_limit_bytes: int
    lingering: dict[str, Invocation] = field(default_factory=dict)
    """Handler calls that were told to stop and have not ended, by task id."""
    suspect: Invocation | None = None
    """The one suspect that runs on the replica itself, where suspects have no process of their own."""
    pump: Callable[[], None] = lambda: None
    """Starts what may start now, in every organ."""
    figures: dict[str, OrganCounters] = field(default_factory=dict)
    """By organ id."""

    def ended(self, run: Invocation) -> None:
        """A handler has ended, whether or not it was told to stop before."""
        for task in run.tasks:
            if self.lingering.get(task["task_id"]) is run:
                del self.lingering[task["task_id"]]
        waiters, run.waiters = run.waiters, []
        for waiter in waiters:
            waiter()

    def figures_of(self, organ_id: str) -> OrganCounters:
        """Those of an organ, which may have been there before."""
        return self.figures.setdefault(organ_id, OrganCounters())


class JobRunner(Protocol):
    """Runs jobs. Each is reported to its call once, unless it is dropped before. On the event loop only."""

    @property
    def idle(self) -> bool:
        """Nothing runs or waits."""
        ...

    @property
    def abandoned(self) -> int:
        """Handler calls on this replica that outlived their timeout and cannot be stopped."""
        ...

    @property
    def problem(self) -> str | None:
        """Why the replica should be replaced."""
        ...

    def submit(self, jobs: Iterable[Job]) -> None:
        """Run ``jobs`` as there is room."""
        ...

    def stop(self, jobs: Iterable[Job], ending: HandlerResult) -> None:
        """Report ``jobs`` to have ended so, at once, and stop them as far as that is possible."""
        ...

    def recall(self, jobs: Iterable[Job], *, leaving: bool) -> None:
        """Report those of ``jobs`` as ``recalled`` that no handler has begun with.

        Args:
            leaving: Those too that wait for a replica elsewhere.
        """
        ...

    def drop(self, jobs: Iterable[Job]) -> list[asyncio.Task[None]]:
        """Forget ``jobs``; returns tasks that are ending and may be awaited."""
        ...

    def pump(self) -> None:
        """Start what may start now."""
        ...

    def close(self) -> None:
        """Give back what it has; nothing may be submitted any more."""
        ...

    def status(self) -> dict[str, Any]:
        """Configuration and figures, as plain data."""
        ...


class OrganRunner(JobRunner, Protocol):
    """A runner that is an organ."""

    config: OrganConfig


CANCELLED_BEFORE = HandlerResult("cancelled", error="cancelled before it started")
CANCELLED = HandlerResult("cancelled", error="cancelled while it ran")
RECALLED = HandlerResult("recalled", error="no handler had begun with it")
