"""A task on its way through an organ, and one call of the organ's handler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from organism_flows.blocks.json_text import from_json
from organism_flows.serve_apps.organism.execution.outcome_stream import BatchCall
from organism_flows.serve_apps.organism.execution.thread_pool import ThreadCall
from organism_flows.serve_apps.organism.handler_api.context import Context
from organism_flows.serve_apps.organism.handler_api.handler import Handler

if TYPE_CHECKING:
    from organism_flows.serve_apps.organism.handler_api.handler import HandlerProcesses

LONGEST_SHOWN = 5


@dataclass(slots=True, eq=False)
class Job:
    """One task waiting for a handler or running in one."""

    call: BatchCall
    position: int
    timeout_s: float
    path: str
    told: bool = False
    """The lane has been told that a handler has begun with it."""
    alone: bool = False
    """It was in a handler batch that failed as a whole, and is tried again by itself."""
    run: Invocation | None = None
    """The handler call it is in."""
    settled: bool = False
    """Its outcome is reported, or nobody waits for it any more."""

    @property
    def claim(self) -> int:
        return self.call.batch.claims[self.position]

    @property
    def suspect(self) -> bool:
        """Whether a replica has died with it."""
        return self.call.batch.suspicions[self.position] > 0

    @property
    def running(self) -> bool:
        """Whether it is in a handler."""
        return not self.settled and self.run is not None and self.run.begun

    def task(self) -> dict[str, Any]:
        """What the handler gets.

        Raises:
            ValueError: The params are not JSON.
        """
        batch, position = self.call.batch, self.position
        return {
            "task_id": batch.ids[position],
            "claim": batch.claims[position],
            "attempt": batch.attempts[position],
            "type": batch.types[position],
            "params": from_json(batch.params[position]),
            "description": batch.descriptions[position],
            "domain": batch.domains[position],
            "drift_score": batch.drift_scores[position],
        }


@dataclass(slots=True, eq=False)
class Invocation:
    """One call of the handler."""

    jobs: list[Job]
    tasks: list[dict[str, Any]]
    started: float
    organ_id: str = ""
    task: asyncio.Task[None] | None = None
    """Where an async handler runs."""
    begun: bool = True
    """It is in the handler, and does not wait for a replica elsewhere."""
    waits: bool = False
    """The handler has given way to the event loop."""
    work: ThreadCall | None = None
    """Where a plain one runs."""
    processes: HandlerProcesses | None = None
    """The processes it is called in; None: this one."""
    on_begin: Callable[[], object] = lambda: None
    """Called in its thread when a process has the tasks."""
    suspect: bool = False
    context: Context | None = None
    """Given to a handler that wants one."""
    linger: asyncio.TimerHandle | None = None
    """Counts it as abandoned, once cancelled."""
    reported: bool = False
    released: bool = False
    """Its slot is free again."""
    abandoned: bool = False
    waiters: list[Callable[[], None]] = field(default_factory=list)
    """Called when its handler has ended, though it was told to stop before."""

    @property
    def timeout_s(self) -> float:
        return self.jobs[0].timeout_s

    def arguments(self, handler: Handler, *, batch: bool) -> tuple[Any, ...]:
        """What to call the handler with."""
        if batch:
            return (self.tasks,)
        if not handler.wants_context:
            return (self.tasks[0],)
        self.context = Context(self.tasks[0], self.started, self.timeout_s, lambda: self.reported)
        return (self.tasks[0], self.context)

    def open_jobs(self) -> list[Job]:
        """Those whose outcome is still awaited."""
        return [job for job in self.jobs if not job.settled]


def longest(runs: Iterable[Invocation]) -> list[dict[str, Any]]:
    """The few tasks that have run longest, and what their handlers say of them, as plain data."""
    now = time.monotonic()
    return [
        {
            "task_id": task["task_id"],
            "seconds": round(now - run.started, 3),
            "progress": run.context.progressed[0] if run.context else None,
            "note": run.context.progressed[1] if run.context else "",
        }
        for run in sorted(runs, key=lambda run: run.started)
        if not run.reported
        for task in run.tasks
    ][:LONGEST_SHOWN]
