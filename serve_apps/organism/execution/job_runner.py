"""Base of what runs jobs: an organ on this replica, an organ elsewhere, and the escalation."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.execution.jobs import Invocation, Job
from organism_flows.serve_apps.organism.execution.organ_status import OrganCounters
from organism_flows.serve_apps.organism.handler_api.errors import describe
from organism_flows.serve_apps.organism.handler_api.results import HandlerResult

logger = logging.getLogger("ray.serve.organism")

LINGER_S = 1.0
"""Longest time a cancelled handler may clean up before it counts as abandoned, in seconds."""
CANCELLED_BEFORE = HandlerResult("cancelled", error="cancelled before it started")
CANCELLED = HandlerResult("cancelled", error="cancelled while it ran")
RECALLED = HandlerResult("recalled", error="no handler had begun with it")


class JobRunner(ABC):
    """Runs jobs, on the event loop only. Reports each job to its call once, unless it is dropped before.

    Args:
        config: Configuration of the organ that its outcomes name.
        counters: Counts the outcomes.
    """

    def __init__(self, config: OrganConfig, counters: OrganCounters) -> None:
        self.config = config
        self.counters = counters
        self._runs: set[Invocation] = set()

    @property
    def idle(self) -> bool:
        """Return True if nothing runs or waits."""
        return not any(run.open_jobs() for run in self._runs)

    @property
    def abandoned(self) -> int:
        """Return the number of handler calls on this replica that were asked to stop and go on."""
        return 0

    @property
    def problem(self) -> str | None:
        """Return why the replica should be replaced; `None` means it should not."""
        return None

    @property
    def drain_s(self) -> float:
        """Return how long its jobs may go on once the replica is taken down, in seconds."""
        return self.config.drain_s

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Run ``jobs``, all of one call, as soon as there is room."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """Return configuration and counters, as plain data."""

    @abstractmethod
    def pump(self) -> None:
        """Start what can start now."""

    @abstractmethod
    def close(self) -> None:
        """Give back threads and processes. Nothing may be submitted afterwards."""

    def stop(self, jobs: Iterable[Job], result: HandlerResult) -> None:
        """Report ``result`` for ``jobs`` at once: those that wait never start, those that run are stopped.

        A call that several jobs share goes on as long as one of them is still awaited.
        """
        for job in jobs:
            if job.reported:
                continue
            if job.run is None:
                self._report(job, CANCELLED_BEFORE if result == CANCELLED else result)
            else:
                self._stop_job(job, job.run, result)

    def recall(self, jobs: Iterable[Job], *, leaving: bool) -> None:
        """Report as ``recalled`` those of ``jobs`` that no handler has begun with.

        Args:
            jobs: The jobs.
            leaving: Also recall jobs that wait for a replica elsewhere.
        """
        self.stop([job for job in jobs if self._can_recall(job, leaving=leaving)], RECALLED)

    def acknowledge(self, job: Job, answer: Acknowledgement) -> None:
        """Let the handler of ``job`` know what became of its reports."""
        if job.context is not None:
            job.context.acknowledge(answer)

    def ask_to_leave(self, jobs: Iterable[Job], within_s: float) -> None:
        """Let the handlers of ``jobs`` know that they are stopped after so many seconds.

        You may call it repeatedly: each is notified once.
        """
        for job in jobs:
            if job.running and job.leave_by is None:
                job.leave_by = time.monotonic() + within_s
                self.acknowledge(job, Acknowledgement(leave_within_s=within_s))

    def drop(self, jobs: Iterable[Job]) -> list[asyncio.Task[None]]:
        """Forget ``jobs``: those that wait never start, those that run are cancelled.

        Returns:
            Asyncio tasks that are ending and can be awaited. Threads cannot be cancelled and are left out.
        """
        runs: dict[Invocation, None] = {}
        for job in jobs:
            if job.run is not None:
                runs[job.run] = None
                if not job.reported:
                    self.counters.causes["interrupted"] += 1
            job.reported = True
            if job.context is not None:
                job.context.end()
        return [task for run in runs if not run.open_jobs() and (task := self._stop_run(run))]

    def _can_recall(self, job: Job, *, leaving: bool) -> bool:
        return job.run is None

    def _stop_job(self, job: Job, run: Invocation, result: HandlerResult) -> None:
        self._report(job, result)
        if not run.open_jobs():
            self._stop_run(run)

    @abstractmethod
    def _stop_run(self, run: Invocation) -> asyncio.Task[None] | None:
        """Stop ``run``, which no job waits for any more, and return its asyncio task if that is ending."""

    def _elapsed_ms(self, job: Job) -> float:
        return (time.monotonic() - job.run.started) * 1000 if job.run else 0.0

    def _report(self, job: Job, result: HandlerResult, elapsed_ms: float | None = None) -> None:
        if job.reported:
            return
        job.reported = True
        if elapsed_ms is None:
            elapsed_ms = self._elapsed_ms(job)
        if job.context is not None:
            # The context refers to the job: without this only the garbage collector would free both.
            context, job.context = job.context, None
            context.end()
            # Whatever became of it, a task that timed out included.
            spent, log = context.units, context.logged
            if result.spent is None and spent is not None:
                result = result._replace(spent=spent)
            if log:
                result = result._replace(log=log)
        self.counters.add(result.cause, elapsed_ms)
        version = job.run.version if job.run else None
        job.call.report(job.position, result, job.path, self.config.id, elapsed_ms, version)


class CoroutineRunner(JobRunner):
    """A runner that runs each invocation in an asyncio task of its own, and calls no handler itself."""

    def pump(self) -> None:
        """Do nothing: no job waits here."""

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""

    def _start(self, jobs: Sequence[Job], *, begun: bool) -> None:
        tasks = [{"task_id": job.call.batch.ids[job.position]} for job in jobs]
        run = Invocation(list(jobs), tasks, time.monotonic(), begun=begun)
        for job in jobs:
            job.run = run
        self._runs.add(run)
        run.task = asyncio.create_task(self._run(run), name=f"organ-{self.config.id}")
        run.task.add_done_callback(lambda _: self._runs.discard(run))

    async def _run(self, run: Invocation) -> None:
        try:
            await self._run_jobs(run)
        except Exception as error:  # a defect here must not leave tasks without an outcome
            logger.exception("organ %s: a call failed", self.config.id)
            for job in run.open_jobs():
                self._report(job, HandlerResult("failed", error=describe(error)))

    @abstractmethod
    async def _run_jobs(self, run: Invocation) -> None:
        """Run the jobs of ``run``, and report each of them."""

    def _stop_run(self, run: Invocation) -> asyncio.Task[None] | None:
        return run.task if run.task is not None and run.task.cancel() else None
