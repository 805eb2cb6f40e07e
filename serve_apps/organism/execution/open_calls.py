"""The calls under way on a replica: which of their tasks may run here, and which must stop.

A task never runs twice at once on one replica: a newer claim of it stops the older run and waits for its end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from math import inf
from typing import TypeAlias

from organism_flows.blocks.queue.wire import Batch
from organism_flows.blocks.task_report import Acknowledgement, TaskReport
from organism_flows.serve_apps.organism.execution.job_runner import (
    CANCELLED_BEFORE,
    LINGER_S,
    RECALLED,
    JobRunner,
)
from organism_flows.serve_apps.organism.execution.jobs import Invocation, Job
from organism_flows.serve_apps.organism.execution.outcome_stream import BatchCall
from organism_flows.serve_apps.organism.execution.shared_state import SharedState
from organism_flows.serve_apps.organism.handler_api.results import HandlerResult

logger = logging.getLogger("ray.serve.organism")

STOPPING_S = 8.0
"""Longest time a replica that is taken down stays for handlers that were asked to stop, in seconds. Serve
ends the replica 10 s after the longest ``drain_s``."""
OUTLIVED = HandlerResult(
    "timed_out",
    error="not begun: an earlier run of it outlived its timeout and still runs on this replica; a plain "
    "function should check context.cancelled, or its organ say `processes: true`",
)
SUPERSEDED = HandlerResult("interrupted", error="a newer claim of the task came to this replica")
TAKEN_DOWN = HandlerResult("interrupted", error="the replica was taken down before the task ended")


Work: TypeAlias = "dict[JobRunner, list[Job]]"


class OpenCalls:
    """The calls under way on one replica.

    Args:
        shared: What the organs of the replica share.
    """

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared
        self._work: dict[BatchCall, Work] = {}
        """Jobs by call and runner. A call without jobs has not been routed yet."""
        self._by_claim: dict[BatchCall, dict[int, tuple[JobRunner, Job]]] = {}
        """The same by the claims of the tasks, of calls of which a handler has reported something."""
        self._newest: dict[str, int] = {}
        """The newest claim of each task in these calls."""
        self._drain_limit_s = inf
        self._draining_since: float | None = None

    @property
    def draining(self) -> bool:
        """Return True if the replica is being taken down."""
        return self._draining_since is not None

    def __iter__(self) -> Iterator[Work]:
        return iter(self._work.values())

    def open(self, call: BatchCall) -> Work:
        """Add ``call``, and stop runs under older claims of its tasks: those claims have been lost."""
        work = self._work[call] = {}
        batch = call.batch
        if self._newest.keys().isdisjoint(batch.ids):
            self._newest.update(zip(batch.ids, batch.claims, strict=True))
            return work
        older = {
            task: claim - 1
            for task, claim in zip(batch.ids, batch.claims, strict=True)
            if self._newest.get(task, claim) < claim
        }
        if older:
            logger.warning("%d tasks came back with newer claims; their older runs are stopped", len(older))
            self.stop(older, SUPERSEDED)
        for task, claim in zip(batch.ids, batch.claims, strict=True):
            self._newest[task] = max(self._newest.get(task, claim), claim)
        return work

    def close(self, call: BatchCall) -> None:
        """Forget ``call``."""
        del self._work[call]
        self._by_claim.pop(call, None)
        for task, claim in zip(call.batch.ids, call.batch.claims, strict=True):
            if self._newest.get(task) == claim:
                del self._newest[task]

    def not_to_run(self, call: BatchCall) -> dict[int, HandlerResult]:
        """Return the results of the tasks of ``call`` that must not run here, by position."""
        batch = call.batch
        newest = [self._newest.get(task, 0) for task in batch.ids]
        if not call.cancelled and not self.draining and newest == batch.claims:
            return {}
        return {
            position: CANCELLED_BEFORE if claim in call.cancelled else RECALLED
            for position, claim in enumerate(batch.claims)
            if claim in call.cancelled or self.draining or newest[position] > claim
        }

    def wait_for(self, older: Invocation, job: Job, runner: JobRunner) -> bool:
        """Let ``job`` begin when an earlier run of its task, which was asked to stop, has ended.

        A plain function may not check whether it should stop. Then the job waits until the timeout of that
        run is over, and ends as timed out.

        Returns:
            False if the run is not of an older claim: then there is nothing to wait for.
        """
        if all(one.claim >= job.claim for one in older.jobs):
            return False
        left_s = older.started + older.timeout_s - time.monotonic()

        def give_up() -> None:
            older.waiters.remove(begin)
            runner.stop([job], OUTLIVED)

        timer = asyncio.get_running_loop().call_later(max(left_s, 0.0) + LINGER_S, give_up)

        def begin() -> None:
            timer.cancel()
            if not job.reported:
                runner.submit([job])

        older.waiters.append(begin)
        return True

    def stop(self, runs: Mapping[str, int], result: HandlerResult) -> list[str]:
        """Stop tasks that run here under the claim given by id, or an older one.

        Args:
            runs: Claims by task id.
            result: How each task is reported.

        Returns:
            Ids of those of ``runs`` that are here.
        """
        known: set[str] = set()
        for call, work in self._work.items():
            batch = call.batch
            here = {
                claim: task
                for task, claim in zip(batch.ids, batch.claims, strict=True)
                if task in runs and claim <= runs[task]
            }
            if not here:
                continue
            known.update(here.values())
            call.cancelled.update(here)
            for organ, jobs in work.items():
                organ.stop([job for job in jobs if job.claim in here], result)
        return sorted(known)

    def acknowledge(self, answers: Mapping[int, Acknowledgement]) -> None:
        """Let the handlers of these claims know what became of their reports."""
        for call in self._work:
            jobs = self._jobs_of(call)
            for claim in jobs.keys() & answers.keys():
                organ, job = jobs[claim]
                organ.acknowledge(job, answers[claim])

    def newly_begun(
        self, call: BatchCall, reports: Iterable[TaskReport] | None = None
    ) -> dict[int, str | None]:
        """Return the positions of the tasks that handlers have begun with, each once, and their versions.

        Args:
            call: Call of the tasks.
            reports: Look only at the tasks of these reports. `None`: at all of the call, which takes longer.
        """
        if reports is None:
            jobs: Iterable[Job] = chain.from_iterable(self._work[call].values())
        else:
            known, claims = self._jobs_of(call), call.batch.claims
            jobs = [known[claim][1] for report in reports if (claim := claims[report.position]) in known]
        begun: dict[int, str | None] = {}
        for job in jobs:
            if job.running and job.run and not job.begin_reported:
                job.begin_reported = True
                begun[job.position] = job.run.version
        return begun

    def _jobs_of(self, call: BatchCall) -> dict[int, tuple[JobRunner, Job]]:
        """Return the jobs of ``call``, and their runners, by the claims of their tasks."""
        if call not in self._by_claim:
            work = self._work[call]
            jobs = {job.claim: (organ, job) for organ, some in work.items() for job in some}
            if not jobs:
                return {}
            self._by_claim[call] = jobs
        return self._by_claim[call]

    def recall(self, claims: Iterable[int], *, leaving: bool) -> None:
        """Report as ``recalled`` those of these tasks that no handler has begun with.

        Args:
            claims: Claims of the tasks.
            leaving: Also recall tasks that wait for a replica of their organ's own deployment.
        """
        wanted = set(claims)
        for work in self:
            for organ, jobs in work.items():
                organ.recall([job for job in jobs if job.claim in wanted], leaving=leaving)

    def limit_drain(self, within_s: float = inf) -> None:
        """Give running tasks at most ``within_s`` seconds once this replica is taken down.

        They never get more than their organs give them.
        """
        self._drain_limit_s = within_s

    def drain(self) -> None:
        """Hand back waiting tasks at once, and running ones when their time is over. Call it repeatedly."""
        now = time.monotonic()
        if self._draining_since is None:
            self._draining_since = now
            logger.info("taken down: %d calls under way", len(self._work))
            for call in self._work:
                call.wake()  # if this replica dies from now on, its tasks are not to blame
        waited_s = now - self._draining_since
        for work in list(self._work.values()):
            for organ, jobs in list(work.items()):
                organ.recall(jobs, leaving=True)
                limit_s = min(organ.drain_s, self._drain_limit_s)
                organ.ask_to_leave(jobs, max(limit_s - waited_s, 0.0))
                if waited_s >= limit_s:
                    organ.stop([job for job in jobs if not job.reported], TAKEN_DOWN)

    async def handlers_ended(self, batch: Batch) -> None:
        """Wait until handlers of ``batch`` that were asked to stop have ended, for at most `STOPPING_S`."""
        runs = {run for task in batch.ids if (run := self._shared.lingering.get(task))}
        ended = [asyncio.Event() for _ in runs]
        for run, event in zip(runs, ended, strict=True):
            run.waiters.append(event.set)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOPPING_S):
                for event in ended:
                    await event.wait()


def any_runs(work: Work) -> bool:
    """Return True if a handler has begun with any of the tasks."""
    return any(job.running for jobs in work.values() for job in jobs)
