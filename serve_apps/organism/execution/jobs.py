"""A job, which is a task on its way through an organ, and an invocation of the organ's handler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from organism_flows.blocks.json_text import from_json
from organism_flows.blocks.task_report import Acknowledgement, EndedWait
from organism_flows.serve_apps.organism.execution.outcome_stream import BatchCall
from organism_flows.serve_apps.organism.execution.thread_pool import ThreadCall
from organism_flows.serve_apps.organism.handler_api.context import Context
from organism_flows.serve_apps.organism.handler_api.handler import HandlerProcesses

LONGEST_SHOWN = 5


@dataclass(slots=True, eq=False)
class Job:
    """One task that waits for a handler or runs in one."""

    call: BatchCall
    position: int
    timeout_s: float
    path: str
    expires: float | None = None
    """When it is stopped whatever its timeout, by `time.monotonic`, because its task expires."""
    begin_reported: bool = False
    """True if it is reported to the lane that a handler has begun with it."""
    alone: bool = False
    """True if it was in a handler batch that failed as a whole, and is tried again by itself."""
    run: Invocation | None = None
    """The handler call it is in."""
    reported: bool = False
    """True if its outcome is reported or no longer awaited."""
    context: Context | None = None
    """Passed to a handler that wants one."""
    leave_by: float | None = None
    """When its handler is stopped, by `time.monotonic`. `None` means that it has not been asked to leave."""

    @property
    def claim(self) -> int:
        return self.call.batch.claims[self.position]

    @property
    def wait(self) -> EndedWait | None:
        """Return how its newest wait for an event has ended; `None` if it has not waited."""
        return self.call.batch.waits.get(self.claim)

    @property
    def key(self) -> str | None:
        """Return its key, if its type runs tasks of one key together."""
        return self.call.batch.keys.get(self.claim)

    def shorten(self, now: float) -> bool:
        """Shorten its timeout to the time until its task expires; return False if there is none left."""
        if self.expires is not None:
            self.timeout_s = min(self.timeout_s, self.expires - now)
        return self.timeout_s > 0

    @property
    def suspect(self) -> bool:
        """Return True if a replica has died with it."""
        return self.call.batch.suspicions[self.position] > 0

    @property
    def running(self) -> bool:
        """Return True if it is in a handler."""
        return not self.reported and self.run is not None and self.run.begun

    def task(self) -> dict[str, Any]:
        """Return the task that the handler is called with.

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
    """One call of an organ's handler."""

    jobs: list[Job]
    tasks: list[dict[str, Any]]
    started: float
    organ_id: str = ""
    version: str | None = None
    """Version of the handler. `None` means that it is not known, or not yet."""
    task: asyncio.Task[None] | None = None
    """The asyncio task that an async handler runs in."""
    begun: bool = True
    """True if the handler has begun; False while the tasks wait for a process or for another replica."""
    leaving: bool = False
    """True if the replica elsewhere that has the tasks is being taken down."""
    waits: bool = False
    """True if the handler has given way to the event loop."""
    work: ThreadCall | None = None
    """The thread call that a plain handler runs in."""
    processes: HandlerProcesses | None = None
    """The processes that the handler is called in. `None` means this process."""
    on_begin: Callable[[], object] = lambda: None
    """Called in the call's thread when a process has the tasks."""
    suspect: bool = False
    linger: asyncio.TimerHandle | None = None
    """Timer that counts a cancelled call as abandoned."""
    reported: bool = False
    released: bool = False
    """True if its slot is free again."""
    abandoned: bool = False
    waiters: list[Callable[[], None]] = field(default_factory=list)
    """Called when the handler has ended."""

    @property
    def timeout_s(self) -> float:
        return self.jobs[0].timeout_s

    def contexts(self) -> list[Context]:
        """Return a new context for each of the tasks."""
        return [self._context(job, task) for job, task in zip(self.jobs, self.tasks, strict=True)]

    def _context(self, job: Job, task: dict[str, Any]) -> Context:
        call, position = job.call, job.position
        job.context = Context(
            task,
            self.started,
            self.timeout_s,
            lambda: self.reported or job.reported,
            lambda report: call.report_running(report._replace(position=position)),
            call.batch.checkpoints[position],
            job.wait,
            job.key,
        )
        if job.leave_by is not None:  # asked before there was a context
            within_s = max(job.leave_by - time.monotonic(), 0.0)
            job.context.acknowledge(Acknowledgement(leave_within_s=within_s))
        return job.context

    def open_jobs(self) -> list[Job]:
        """Return the jobs whose outcome is still awaited."""
        return [job for job in self.jobs if not job.reported]


def longest(runs: Iterable[Invocation]) -> list[dict[str, Any]]:
    """Return the tasks that have run longest, with the progress that their handlers report, as plain data."""
    now = time.monotonic()
    return [
        {
            "task_id": task["task_id"],
            "seconds": round(now - run.started, 3),
            "progress": job.context.progressed.fraction if job.context else None,
            "note": job.context.progressed.note if job.context else "",
        }
        for run in sorted(runs, key=lambda run: run.started)
        if not run.reported
        for job, task in zip(run.jobs, run.tasks, strict=True)
    ][:LONGEST_SHOWN]
