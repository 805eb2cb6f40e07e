"""An organ that is a Serve deployment of its own: tasks are sent there, and outcomes come back.

Each handler call there is one call of Serve's. So Serve knows the load when it chooses a replica, and when it
decides on their number.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from organism_flows.blocks.errors import OrganismUnavailable, ReplicaLost
from organism_flows.blocks.organism_reports import HealthReport
from organism_flows.blocks.queue.wire import Batch, Outcomes
from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.execution.job_runner import CoroutineRunner
from organism_flows.serve_apps.organism.execution.jobs import Invocation, Job, longest
from organism_flows.serve_apps.organism.execution.outcome_stream import result_at
from organism_flows.serve_apps.organism.execution.shared_state import SharedState
from organism_flows.serve_apps.organism.handler_api.results import HandlerResult

logger = logging.getLogger("ray.serve.organism")

PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses before a call that no replica took is made again, in seconds; the last one repeats."""


class OrganClient(Protocol):
    """Client of an organ's deployment."""

    def call(self, batch: Batch) -> AsyncGenerator[Outcomes, None]:
        """Run ``batch`` and yield outcomes as tasks end; empty ones only show that the replica lives.

        Raises:
            OrganismUnavailable: Nothing of the batch ran.
            ReplicaLost: The outcomes that were not yielded are unknown.
        """
        ...

    async def health(self) -> HealthReport:
        """Return the health of one replica.

        Raises:
            OrganismUnavailable: No replica answers.
        """
        ...

    async def cancel(self, runs: Mapping[str, int]) -> None:
        """Stop tasks on every replica where they run under the claim given by id, or an older one.

        Raises:
            OrganismUnavailable: At least one replica has not answered.
        """
        ...

    async def running(self) -> list[dict[str, Any]]:
        """Return what runs on each replica.

        Raises:
            OrganismUnavailable: At least one replica has not answered.
        """
        ...

    async def acknowledge(self, saved: Mapping[int, Acknowledgement]) -> None:
        """Answer handlers that wait until what they reported is durable.

        Raises:
            OrganismUnavailable: At least one replica has not answered.
        """
        ...

    async def limit_drain(self, within_s: float) -> None:
        """Give running tasks at most ``within_s`` seconds on replicas that are taken down from now on.

        Raises:
            OrganismUnavailable: At least one replica has not answered.
        """
        ...


class RemoteOrgan(CoroutineRunner):
    """Runs tasks on the deployment of one organ.

    Args:
        config: Configuration of the organ.
        client: Client of the deployment.
        shared: What all organs of the replica share.
    """

    def __init__(self, config: OrganConfig, client: OrganClient, shared: SharedState) -> None:
        super().__init__(config, shared.counters_of(config.id))
        self.client = client
        self._trouble: str | None = None
        self._version = config.version
        """Version of the handler on the replica that answered last."""
        self._answers: dict[int, Acknowledgement] = {}
        """Answers that are not on their way yet, by claim."""
        self._answering: asyncio.Task[None] | None = None

    @property
    def always_there(self) -> bool:
        """Return True if it always has a replica."""
        scaling = self.config.deployment and self.config.deployment.autoscaling
        return not scaling or scaling.min_replicas > 0

    async def health(self) -> dict[str, Any]:
        """Return the health of one replica."""
        try:
            return (await self.client.health()).plain()
        except OrganismUnavailable as error:
            return HealthReport(status="unhealthy", problem=error.what).plain()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Send ``jobs``, all of one call, to the deployment. Serve lets them wait for a replica."""
        ready = [job for job in jobs if not job.reported]
        size = self.config.max_batch_size if self.config.batch else 1
        for suspects in (True, False):
            alike = [job for job in ready if job.suspect is suspects]
            step = 1 if suspects else size
            for start in range(0, len(alike), step):
                self._start(alike[start : start + step], begun=False)

    def status(self) -> dict[str, Any]:
        """Return configuration and counters, as plain data. They count tasks sent from this replica."""
        begun = [run for run in self._runs if run.begun]
        return {
            **self.config.model_dump(mode="json"),
            "version": self._version,
            "form": "deployment",
            "in_flight": sum(len(run.open_jobs()) for run in begun),
            "waiting": sum(len(run.open_jobs()) for run in self._runs if not run.begun),
            "suspects": 0,
            "abandoned": 0,
            "longest": longest(begun),
            "trouble": self._trouble,
            **self.counters.report(),
        }

    def _can_recall(self, job: Job, *, leaving: bool) -> bool:
        # Jobs that wait for a replica show Serve the load.
        return leaving and not job.running

    def acknowledge(self, job: Job, answer: Acknowledgement) -> None:
        """Pass the answer on; answers that come together share a message."""
        if not self._answers:
            self._answering = asyncio.create_task(self._send_answers())
        earlier = self._answers.get(job.claim)
        if earlier is None or earlier.leave_within_s is None:
            self._answers[job.claim] = answer

    async def _send_answers(self) -> None:
        answers, self._answers = self._answers, {}
        try:
            await self.client.acknowledge(answers)
        except OrganismUnavailable as error:
            logger.warning(
                "organ %s: %d answers to reports are lost: %s", self.config.id, len(answers), error
            )

    def _elapsed_ms(self, job: Job) -> float:
        return 0.0  # only its own replica knows

    # Calling

    async def _run_jobs(self, run: Invocation) -> None:
        tries = 0
        while run.open_jobs():
            try:
                await self._call(run)
                self._trouble = None
            except OrganismUnavailable as error:
                run.begun = False
                self._trouble = error.what
                await asyncio.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
                tries += 1
            except ReplicaLost as error:
                self._suspect(run, error.what)
                return

    async def _call(self, run: Invocation) -> None:
        """Call the deployment once, and report outcomes as they come.

        Raises:
            OrganismUnavailable: None of the open jobs ran.
            ReplicaLost: The outcomes of the jobs that are still open are unknown.
        """
        jobs = run.open_jobs()
        batch = jobs[0].call.batch.take(job.position for job in jobs)
        batch.timeouts = [job.timeout_s for job in jobs]
        now = time.monotonic()
        batch.expires_s = {job.claim: job.expires - now for job in jobs if job.expires is not None}
        async with aclosing(self.client.call(batch)) as stream:
            async for outcomes in stream:
                if not run.begun and (outcomes.begun or outcomes.reports or len(outcomes)):
                    run.begun, run.started = True, time.monotonic()
                run.leaving |= outcomes.leaving
                for version in (*outcomes.begun.values(), *outcomes.versions):
                    run.version = self._version = version or self._version
                for report in outcomes.reports:
                    if not (job := jobs[report.position]).reported:
                        job.call.report_running(report._replace(position=job.position))
                for row, position in enumerate(outcomes.positions):
                    result = result_at(outcomes, row)._replace(log=outcomes.logs.get(jobs[position].claim))
                    self._report(jobs[position], result, outcomes.elapsed_ms[row])
        if left := run.open_jobs():
            raise ReplicaLost(f"organ {self.config.id} ended a call without {len(left)} outcomes")

    def _suspect(self, run: Invocation, what: str) -> None:
        """Hand the tasks of a lost replica back as suspects, unless it was being taken down.

        A suspect without a process of its own was the only one there, and was reported before it began. Its
        attempt is charged.
        """
        left = run.open_jobs()
        logger.warning("organ %s: %s; %d tasks had not been reported", self.config.id, what, len(left))
        for job in left:
            if run.leaving:
                result = HandlerResult("interrupted", error=f"{what} while it was being taken down")
            elif job.suspect and run.begun and not self.config.isolates:
                result = HandlerResult("failed", error=f"ran as the only suspect on a replica, and {what}")
            else:
                result = HandlerResult("replica_lost", error=what)
            self._report(job, result)
