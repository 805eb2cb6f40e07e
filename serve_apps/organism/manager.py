"""The manager of the organism: takes tasks, routes them to organs, streams their outcomes back.

A plain class without Serve; `serve_apps.organism.app` puts it on replicas.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from contextvars import copy_context
from typing import Any

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.json_text import from_json
from organism_flows.blocks.queue.wire import HANDED_BACK, Batch, Outcomes
from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.serve_apps.organism.assembly import Assemblies, nowhere
from organism_flows.serve_apps.organism.config import OrganismConfig
from organism_flows.serve_apps.organism.escalation.cusum import DriftValve, Valve
from organism_flows.serve_apps.organism.escalation.drift import DriftMonitor, Path
from organism_flows.serve_apps.organism.execution.job_runner import CANCELLED, LINGER_S, JobRunner
from organism_flows.serve_apps.organism.execution.jobs import Job
from organism_flows.serve_apps.organism.execution.open_calls import OpenCalls, Work, any_runs
from organism_flows.serve_apps.organism.execution.outcome_stream import BatchCall
from organism_flows.serve_apps.organism.execution.remote_organ import OrganClient, RemoteOrgan
from organism_flows.serve_apps.organism.execution.router import NoOrgan
from organism_flows.serve_apps.organism.execution.shared_state import SharedState
from organism_flows.serve_apps.organism.handler_api.introspection import ORGANISM
from organism_flows.serve_apps.organism.handler_api.results import HandlerResult
from organism_flows.serve_apps.organism.replica_report import ReplicaReport
from organism_flows.serve_apps.organism.request import InvalidTask, open_wire, parse_task, refused

BEGUN_REPORT_S = 2.0
"""Pause between two reports of a call on which of its tasks handlers have begun with, in seconds."""


class OrganismManager:
    """Runs tasks on the organs of one configuration, which may change while it runs.

    Args:
        config: The first configuration. `None` means none until `reconfigure`.
        replica: Name of the replica it runs on, for `health` and `status`.
        connect: Returns the client of an organ's own deployment, by the organ's id.
        valve: Sums up drift. `None` means a valve in this process.

    Raises:
        ConfigurationError: The configuration is wrong or a handler does not import.
    """

    def __init__(
        self,
        config: OrganismConfig | dict[str, Any] | None = None,
        *,
        replica: str = "local",
        connect: Callable[[str], OrganClient] = nowhere,
        valve: Valve | None = None,
    ) -> None:
        self._shared = SharedState(result_limit_bytes=0, pump=self._pump)
        self._calls = OpenCalls(self._shared)
        self._assemblies = Assemblies(self._shared, self._calls, connect)
        self.drift = DriftMonitor(valve or DriftValve())
        self._report = ReplicaReport(replica, self._assemblies, self._calls, self._shared, self.drift)
        if config is not None:
            self._assemblies.begin(config)

    @property
    def configured(self) -> bool:
        """Return True if a configuration is in effect."""
        return self._assemblies.current is not None

    async def reconfigure(self, user_config: OrganismConfig | dict[str, Any]) -> None:
        """Apply a configuration. Tasks that were accepted before end under the old one.

        Raises:
            ConfigurationError: It is wrong or a handler does not import. The old one stays in effect.
        """
        await self._assemblies.replace(user_config)

    # Running tasks

    async def handle_incoming_task(self, task: dict[str, Any]) -> dict[str, Any]:
        """Run one task.

        Args:
            task: Its fields; see `TaskRequest`.

        Returns:
            Its outcome: task_id, success, result, error, retryable, path, organ_id, elapsed_ms. A wrong task
            has one too, whose error names the field.
        """
        try:
            parsed = parse_task(task)
            batch = parsed.as_batch()
        except InvalidTask as error:
            return refused(task, str(error))
        ended = Outcomes()
        async with aclosing(self._run(batch)) as parts:
            async for outcomes in parts:
                if len(outcomes):
                    ended = outcomes
        result = ended.results[0]
        return {
            "task_id": parsed.task_id,
            "success": ended.causes[0] == "completed",
            "result": from_json(result) if result is not None and ended.causes[0] == "completed" else None,
            "error": ended.errors[0],
            "retryable": ended.causes[0] in ("failed", "timed_out", "snoozed", *HANDED_BACK),
            "path": ended.paths[0],
            "organ_id": ended.organ_ids[0],
            "elapsed_ms": ended.elapsed_ms[0],
        }

    async def handle_tasks(self, wire: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Run a batch.

        Args:
            wire: `Batch.to_wire()`.

        Yields:
            `Outcomes.to_wire()`, with tasks as they end, and at least every 2 s; at least one, perhaps empty.

        Raises:
            ConfigurationError: The batch is of another version, its columns do not fit, or there is no
                configuration yet. None of the batch ran.
        """
        batch = open_wire(wire)
        async with aclosing(self._run(batch)) as parts:
            async for outcomes in parts:
                yield outcomes.to_wire()

    async def _run(self, batch: Batch) -> AsyncGenerator[Outcomes, None]:
        # Handlers run in copies of the caller's context, so that Serve's request id is in their log lines.
        context = copy_context()
        context.run(ORGANISM.set, self)
        call = BatchCall(batch, context)
        work = self._calls.open(call)
        try:
            config = self._assemblies.config
            drifting = await self.drift.among(batch, config.escalation if config else None)
            timeout_s = self._route(call, work, drifting)
            if not len(batch):
                # If a stream has no message, gRPC may lose what Serve sends before the first message.
                yield Outcomes()
            begun_reported_at = time.monotonic()
            async with aclosing(call.chunks()) as chunks:
                async for outcomes in chunks:
                    outcomes.timeout_s = timeout_s
                    outcomes.leaving = self._calls.draining
                    outcomes.waiting = not len(outcomes) and not any_runs(work)
                    assembly = self._assemblies.current
                    outcomes.policies = assembly.policies(outcomes) if assembly else {}
                    begun, call.begun = call.begun, {}
                    now = time.monotonic()
                    due = now - begun_reported_at > BEGUN_REPORT_S - 0.1
                    if due or not (len(outcomes) or outcomes.reports):
                        begun_reported_at = now
                        begun |= self._calls.newly_begun(call)
                    elif outcomes.reports:
                        begun |= self._calls.newly_begun(call, outcomes.reports)
                    outcomes.begun = begun
                    yield outcomes
            if self._calls.draining:
                # Serve ends this replica after its last call: handlers that must stop have until then.
                await self._calls.handlers_ended(batch)
        finally:
            # Reached by cancellation too. A finished call has nothing left to drop.
            self._calls.close(call)
            ending = [task for organ, jobs in work.items() for task in organ.drop(jobs)] if call.left else []
            self._pump()
            if ending:
                await asyncio.wait(ending, timeout=LINGER_S)

    def _route(self, call: BatchCall, work: Work, drifting: Collection[int]) -> float | None:
        """Add the jobs of ``call`` to ``work`` and hand them to their organs; report tasks that must not run.

        Returns:
            The longest timeout among the jobs, in seconds; `None` means there are no jobs.
        """
        assembly = self._assemblies.current
        if assembly is None:
            raise ConfigurationError("the organism has no configuration yet", "deploy it with a user_config")
        batch = call.batch
        others: Counter[Path] = Counter()
        longest_s = None
        postponed: set[Job] = set()
        now = time.monotonic()
        refused = self._calls.not_to_run(call)
        lingering = self._shared.lingering
        routed: dict[tuple[str, str | None], tuple[JobRunner, float]] = {}
        for position, place in enumerate(zip(batch.types, batch.domains, strict=True)):
            if result := refused.get(position):
                call.report(position, result, path="fast", organ_id=None, elapsed_ms=0.0)
                continue
            if (route := routed.get(place)) is None:
                try:
                    organ = assembly.router.route(*place)
                    own_s = organ.config.timeout_s or assembly.config.default_timeout_s
                    route = routed[place] = organ, own_s
                except NoOrgan as error:
                    result = HandlerResult("rejected", error=str(error))
                    call.report(position, result, path="fast", organ_id=None, elapsed_ms=0.0)
                    continue
            organ, timeout_s = route
            runner: JobRunner = organ
            path: Path = "fast"
            if position in drifting:
                path = "fallback"
                if assembly.escalation:
                    runner, path = assembly.escalation, "escalated"
                others[path] += 1
            if (asked_s := batch.timeouts[position]) is not None:
                if not (asked_s > 0 and math.isfinite(asked_s)):
                    result = HandlerResult(
                        "rejected", error=f"timeout is {asked_s!r}, not a positive number of seconds"
                    )
                    call.report(position, result, path=path, organ_id=organ.config.id, elapsed_ms=0.0)
                    continue
                timeout_s = asked_s
            job = Job(call, position, timeout_s, path)
            if (left_s := batch.expires_s.get(batch.claims[position])) is not None:
                job.expires = now + left_s
            work.setdefault(runner, []).append(job)
            older = lingering.get(batch.ids[position]) if lingering else None
            if older is not None and self._calls.wait_for(older, job, runner):
                postponed.add(job)
            if longest_s is None or timeout_s > longest_s:
                longest_s = timeout_s
        self.drift.paths.update(others)
        self.drift.paths["fast"] += len(batch) - others.total()
        for runner, jobs in work.items():
            if begin := [job for job in jobs if job not in postponed]:
                runner.submit(begin)
        return longest_s

    def _pump(self) -> None:
        self._assemblies.pump()

    def cancel_tasks(self, runs: dict[str, int]) -> list[str]:
        """Stop tasks that run here under the claim given by id, or an older one.

        Each is reported ``cancelled`` through its own call, at once. A waiting task never starts. An async
        handler is cancelled, and may clean up. A plain function in a thread cannot be stopped: it counts as
        abandoned until it ends. A handler batch goes on for its other tasks. A task that has ended keeps its
        outcome. Calling again changes nothing.

        Returns:
            Ids of those of ``runs`` that are on this replica.
        """
        return self._calls.stop(runs, CANCELLED)

    def recall_tasks(self, claims: list[int], leaving: bool) -> None:
        """Report as ``recalled`` those of these tasks that no handler has begun with.

        Args:
            claims: Claims of the tasks.
            leaving: Also recall tasks that wait for a replica of their organ's own deployment.
        """
        self._calls.recall(claims, leaving=leaving)

    def acknowledge(self, answers: Mapping[int, Acknowledgement]) -> None:
        """Let handlers know what became of their reports.

        Args:
            answers: Answers by the claims of their tasks. Those of other replicas are ignored.
        """
        self._calls.acknowledge(answers)

    def limit_drain(self, within_s: float) -> None:
        """Give running tasks at most ``within_s`` seconds once this replica is taken down."""
        self._calls.limit_drain(within_s)

    def drain(self) -> None:
        """Hand back waiting tasks at once, and running ones when the ``drain_s`` of their organ is over.

        Call it repeatedly while this replica is being taken down.
        """
        self._calls.drain()

    # Reports

    def health(self) -> dict[str, Any]:
        """Return whether it serves: a `HealthReport` as plain data."""
        return self._report.health().plain()

    def status(self) -> dict[str, Any]:
        """Return what it serves and has done: a `StatusReport` as plain data."""
        return self._report.status().plain()

    def running(self) -> dict[str, Any]:
        """Return what runs on this replica, by organ: what replacing the replica would interrupt."""
        return self._report.running()

    @property
    def apart(self) -> list[RemoteOrgan]:
        """Return the organs that are deployments of their own."""
        return [organ for organ in self._assemblies.organs if isinstance(organ, RemoteOrgan)]

    async def health_apart(self) -> dict[str, dict[str, Any]]:
        """Return the health of the organs that are deployments of their own, by id.

        Organs that may have no replica are not asked, because that would start one.
        """
        return {organ.config.id: await organ.health() for organ in self.apart if organ.always_there}

    async def drift_now(self) -> dict[str, Any]:
        """Return the drift part of `status`, with the sums of all replicas if the valve answers."""
        config = self._assemblies.config
        return await self.drift.now(config.escalation if config else None)

    async def check_health(self) -> None:
        """Return at once if the replica can work. It is async, so that it cannot return on a blocked loop.

        Raises:
            RuntimeError: The replica should be replaced.
        """
        if problem := self._report.problem():
            raise RuntimeError(problem)
