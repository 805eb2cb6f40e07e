"""The manager of the organism: takes tasks, routes them to organs, streams their outcomes back.

A plain class without Serve; `serve_apps.organism.app` puts it on replicas.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from contextvars import copy_context
from typing import Any

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.json_text import from_json
from organism_flows.blocks.organism_reports import EnvironmentReport, HealthReport, OrganReport, StatusReport
from organism_flows.blocks.queue.wire import HANDED_BACK, WIRE_VERSION, Batch, Outcomes
from organism_flows.blocks.versions import package_version
from organism_flows.serve_apps.organism.assembly import Assembly, assemble, load_missing, nowhere
from organism_flows.serve_apps.organism.config import OrganismConfig, parse_config
from organism_flows.serve_apps.organism.escalation.cusum import DriftValve, Valve
from organism_flows.serve_apps.organism.escalation.drift import DriftMonitor, Path
from organism_flows.serve_apps.organism.execution.jobs import Job
from organism_flows.serve_apps.organism.execution.local_organ import LocalOrgan
from organism_flows.serve_apps.organism.execution.organ_status import load
from organism_flows.serve_apps.organism.execution.outcome_stream import BatchCall
from organism_flows.serve_apps.organism.execution.protocol import CANCELLED, LINGER_S, JobRunner, SharedRules
from organism_flows.serve_apps.organism.execution.remote_organ import OrganClient, RemoteOrgan
from organism_flows.serve_apps.organism.handler_api.handler import Handler
from organism_flows.serve_apps.organism.handler_api.introspection import ORGANISM
from organism_flows.serve_apps.organism.handler_api.loading import extend_import_path
from organism_flows.serve_apps.organism.handler_api.results import HandlerResult
from organism_flows.serve_apps.organism.open_calls import OpenCalls, Work, any_runs, newly_begun
from organism_flows.serve_apps.organism.replica_environment import environment
from organism_flows.serve_apps.organism.request import InvalidTask, open_wire, parse_task, refused
from organism_flows.serve_apps.organism.router import NoOrgan

logger = logging.getLogger("ray.serve.organism")

ABANDONED_LIMIT = 32
"""Most handler calls (a thread or task each) that outlive their timeouts before a replica is unhealthy."""
TELL_S = 2.0
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
        self._replica = replica
        self._started = time.monotonic()
        self._rules = SharedRules(result_limit_bytes=0, pump=self._pump)
        self._assembly: Assembly | None = None
        self._retiring: list[JobRunner] = []
        self._connect = connect
        self.drift = DriftMonitor(valve or DriftValve())
        self._calls = OpenCalls(self._rules)
        self._reconfiguring = asyncio.Lock()
        self._refused: str | None = None
        if config is not None:
            parsed = parse_config(config)
            extend_import_path(parsed.python_path)
            self._apply(parsed, load_missing(parsed, None))

    # Configuration

    @property
    def configured(self) -> bool:
        """Return True if a configuration is in effect."""
        return self._assembly is not None

    async def reconfigure(self, user_config: OrganismConfig | dict[str, Any]) -> None:
        """Apply a configuration. Tasks that were accepted before end under the old one.

        Raises:
            ConfigurationError: It is wrong or a handler does not import. The old one stays in effect.
        """
        try:
            await self._reconfigure(user_config)
            self._refused = None
        except ConfigurationError as error:
            self._refused = str(error)
            logger.error("configuration refused: %s", error)
            raise

    async def _reconfigure(self, user_config: OrganismConfig | dict[str, Any]) -> None:
        async with self._reconfiguring:
            parsed = parse_config(user_config)
            extend_import_path(parsed.python_path)
            # In a thread: importing a model may take minutes, and tasks go on meanwhile.
            self._apply(parsed, await asyncio.to_thread(load_missing, parsed, self._assembly))

    def _apply(self, config: OrganismConfig, handlers: dict[str, Handler]) -> None:
        old = self._assembly
        new = self._assembly = assemble(config, handlers, old, self._rules, self._connect)
        self._rules.result_limit_bytes = config.result_limit_bytes
        # The limit was set for a replacement of this replica, and this is a change in place.
        self._calls.limit_drain(None)
        if old is not None:
            kept = set(map(id, new.runners))
            self._retiring += [runner for runner in old.runners if id(runner) not in kept]
        self._pump()
        logger.info("organism configured: %d organs, types %s", len(new.organs), ", ".join(new.router.types))

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
            "result": None if result is None else from_json(result),
            "error": ended.errors[0],
            "retryable": ended.causes[0] in ("failed", "timed_out", *HANDED_BACK),
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
            drifting = await self.drift.among(
                batch, self._assembly.config.escalation if self._assembly else None
            )
            timeout_s = self._route(call, work, drifting)
            if not len(batch):
                # If a stream has no message, gRPC may lose what Serve sends before the first message.
                yield Outcomes()
            told_at = time.monotonic()
            async with aclosing(call.chunks()) as chunks:
                async for outcomes in chunks:
                    outcomes.timeout_s = timeout_s
                    outcomes.waiting = not len(outcomes) and not any_runs(work)
                    outcomes.policies = self._assembly.policies(outcomes) if self._assembly else {}
                    outcomes.begun, call.begun = call.begun, []
                    if (now := time.monotonic()) - told_at > TELL_S - 0.1 or not len(outcomes):
                        told_at = now
                        outcomes.begun += newly_begun(work)
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
        assembly = self._assembly
        if assembly is None:
            raise ConfigurationError("the organism has no configuration yet", "deploy it with a user_config")
        batch = call.batch
        others: Counter[Path] = Counter()
        longest_s = None
        begin: dict[JobRunner, list[Job]] = {}
        for position, task_type in enumerate(batch.types):
            if ending := self._calls.not_to_run(call, position):
                call.report(position, ending, path="fast", organ_id=None, elapsed_ms=0.0)
                continue
            try:
                organ = assembly.router.route(task_type, batch.domains[position])
            except NoOrgan as error:
                ending = HandlerResult("rejected", error=str(error))
                call.report(position, ending, path="fast", organ_id=None, elapsed_ms=0.0)
                continue
            runner: JobRunner = organ
            path: Path = "fast"
            if position in drifting:
                path = "fallback"
                if assembly.escalation:
                    runner, path = assembly.escalation, "escalated"
                others[path] += 1
            timeout_s = batch.timeouts[position]
            if timeout_s is None:
                timeout_s = organ.config.timeout_s or assembly.config.default_timeout_s
            elif not (timeout_s > 0 and math.isfinite(timeout_s)):
                ending = HandlerResult(
                    "rejected", error=f"timeout is {timeout_s!r}, not a positive number of seconds"
                )
                call.report(position, ending, path=path, organ_id=organ.config.id, elapsed_ms=0.0)
                continue
            job = Job(call, position, timeout_s, path)
            work.setdefault(runner, []).append(job)
            older = self._rules.lingering.get(batch.ids[position])
            if older is None or not self._calls.wait_for(older, job, runner):
                begin.setdefault(runner, []).append(job)
            longest_s = max(timeout_s, longest_s or 0.0)
        self.drift.paths.update(others)
        self.drift.paths["fast"] += len(batch) - others.total()
        for runner, jobs in begin.items():
            runner.submit(jobs)
        return longest_s

    def _pump(self) -> None:
        """Start what can start now, and close old organs that nothing needs any more."""
        runners = [*(self._assembly.runners if self._assembly else ()), *self._retiring]
        for runner in runners:
            runner.pump()
        for runner in list(self._retiring):
            if runner.idle and not runner.abandoned and not any(runner in work for work in self._calls):
                runner.close()
                self._retiring.remove(runner)

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

    def limit_drain(self, within_s: float) -> None:
        """Give running tasks at most ``within_s`` seconds once this replica is taken down."""
        self._calls.limit_drain(within_s)

    def drain(self) -> None:
        """Hand back waiting tasks at once, and running ones when the ``drain_s`` of their organ is over.

        Call it repeatedly while this replica is being taken down.
        """
        self._calls.drain(self._drain_s)

    def _drain_s(self, runner: JobRunner) -> float:
        if isinstance(runner, (LocalOrgan, RemoteOrgan)):
            return runner.config.drain_s
        config = self._assembly.config if self._assembly else None
        return max((organ.drain_s for organ in config.organs), default=0.0) if config else 0.0

    def health(self) -> dict[str, Any]:
        """Return whether it serves: a `HealthReport` as plain data."""
        return self._health().plain()

    def _health(self) -> HealthReport:
        problem = self._problem()
        return HealthReport(
            status="unhealthy" if problem else "degraded" if self._refused else "healthy",
            organism_initialized=self.configured,
            problem=problem,
            refused_configuration=self._refused,
            uptime_s=round(time.monotonic() - self._started, 3),
            pid=os.getpid(),
            replica=self._replica,
            version=package_version(),
            wire_version=WIRE_VERSION,
        )

    def status(self) -> dict[str, Any]:
        """Return what it serves and has done: a `StatusReport` as plain data."""
        assembly = self._assembly
        organs = {name: organ.status() for name, organ in assembly.organs.items()} if assembly else {}
        totals: Counter[str] = Counter()
        for figures in organs.values():
            for name in (
                "in_flight",
                "waiting",
                "abandoned",
                "completed",
                "failed",
                "rejected",
                "timed_out",
                "cancelled",
                "interrupted",
            ):
                totals[name] += figures[name]
        config = assembly.config if assembly else None
        report = StatusReport(
            **dict(self._health()),
            task_types=list(assembly.router.types) if assembly else [],
            organs={name: OrganReport.model_validate(organ) for name, organ in organs.items()},
            totals=dict(totals),
            draining=self._calls.draining,
            lingering=len(self._rules.lingering),
            retiring_organs=len(self._retiring),
            escalation=assembly.escalation.status() if assembly and assembly.escalation else None,
            drift=self.drift.status(config.escalation if config else None),
            environment=EnvironmentReport.model_validate(environment()),
            config=config.model_dump(mode="json") if config else None,
        )
        return report.plain()

    def running(self) -> dict[str, Any]:
        """Return what runs on this replica, by organ: what replacing the replica would interrupt."""
        left_behind = Counter(run.organ_id for run in set(self._rules.lingering.values()))
        here = [organ for organ in self._organs() if isinstance(organ, LocalOrgan)]
        organs = {organ.config.id: load(organ.status(), left_behind[organ.config.id]) for organ in here}
        return {"replica": self._replica, "draining": self._calls.draining, "organs": organs}

    def _organs(self) -> Collection[LocalOrgan | RemoteOrgan]:
        return self._assembly.organs.values() if self._assembly else ()

    @property
    def apart(self) -> list[RemoteOrgan]:
        """Return the organs that are deployments of their own."""
        return [organ for organ in self._organs() if isinstance(organ, RemoteOrgan)]

    async def health_apart(self) -> dict[str, dict[str, Any]]:
        """Return the health of the organs that are deployments of their own, by id.

        Organs that may have no replica are not asked, because that would start one.
        """
        return {organ.config.id: await organ.health() for organ in self.apart if organ.always_there}

    async def drift_now(self) -> dict[str, Any]:
        """Return the drift part of `status`, with the sums of all replicas if the valve answers."""
        config = self._assembly.config if self._assembly else None
        return await self.drift.now(config.escalation if config else None)

    async def check_health(self) -> None:
        """Return at once if the replica can work. It is async, so that it cannot return on a blocked loop.

        Raises:
            RuntimeError: The replica should be replaced.
        """
        if problem := self._problem():
            raise RuntimeError(problem)

    def _problem(self) -> str | None:
        runners = [*(self._assembly.runners if self._assembly else ()), *self._retiring]
        now = time.monotonic()
        # Calls that were asked to stop before their timeout may still notice that, and end.
        hung = sum(now > run.started + run.timeout_s for run in set(self._rules.lingering.values()))
        if hung > ABANDONED_LIMIT:
            return f"{hung} handler calls hang and cannot be stopped, more than {ABANDONED_LIMIT}"
        return next((runner.problem for runner in runners if runner.problem), None)
