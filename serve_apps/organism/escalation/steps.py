"""The runner of escalated tasks: the planner returns steps, organs run them, and one outcome is reported."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from organism_flows.blocks.json_text import NotJson, from_json, to_json
from organism_flows.blocks.queue.wire import Batch
from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.serve_apps.organism.config import OrganismConfig
from organism_flows.serve_apps.organism.escalation.plan import InvalidPlan, PlannedStep, parse_plan
from organism_flows.serve_apps.organism.escalation.saved_steps import PLANNER, SavedSteps, StepDone
from organism_flows.serve_apps.organism.execution.job_runner import CoroutineRunner, JobRunner
from organism_flows.serve_apps.organism.execution.jobs import Invocation, Job, longest
from organism_flows.serve_apps.organism.execution.organ_status import OrganCounters
from organism_flows.serve_apps.organism.execution.outcome_stream import BatchCall, result_at
from organism_flows.serve_apps.organism.execution.router import NoOrgan, Router
from organism_flows.serve_apps.organism.execution.shared_state import SharedState
from organism_flows.serve_apps.organism.handler_api.errors import harmless
from organism_flows.serve_apps.organism.handler_api.results import HandlerResult
from organism_flows.serve_apps.organism.request import PARAMS_LIMIT_BYTES

PATH = "escalated"


class StepFailed(Exception):
    """Error: the escalated task cannot go on, and ends with ``result``."""

    def __init__(self, result: HandlerResult) -> None:
        super().__init__(result.error)
        self.result = result


class EscalationRunner(CoroutineRunner):
    """Runs tasks by way of a planner.

    All handler calls of a task, the planner's and those of the steps, have the task's id, claim and attempt.
    Together they have its timeout. A step that fails fails the task, and the next attempt plans again, unless
    something of this one was saved by `Context.checkpoint`: then it continues with the plan.

    Args:
        config: Configuration of the organism.
        planner: The organ that plans.
        router: Finds the organs of the steps.
        shared: What everything that runs tasks shares.
    """

    def __init__(
        self, config: OrganismConfig, planner: JobRunner, router: Router, shared: SharedState
    ) -> None:
        assert config.escalation is not None
        super().__init__(planner.config, OrganCounters())
        self._max_steps = config.escalation.max_steps
        self._default_timeout_s = config.default_timeout_s
        self._longest_drain_s = max(organ.drain_s for organ in config.organs)
        self._planner = planner
        self._router = router
        self._shared = shared
        self._saved: dict[Job, SavedSteps] = {}
        """Checkpoints of the tasks under way."""

    @property
    def drain_s(self) -> float:
        """Return the longest time of any organ, which may have to run a step."""
        return self._longest_drain_s

    def submit(self, jobs: Sequence[Job]) -> None:
        """Begin ``jobs`` at once. The planner and the organs have their own limits."""
        for job in jobs:
            if not job.reported:
                self._start([job], begun=True)

    def acknowledge(self, job: Job, answer: Acknowledgement) -> None:
        """Let the steps of ``job`` know what became of its reports."""
        if saved := self._saved.get(job):
            saved.acknowledge(answer)

    def status(self) -> dict[str, Any]:
        """Return what is under way, as plain data."""
        return {
            "planner": self.config.id,
            "in_flight": len(self._runs),
            "longest": longest(self._runs),
        }

    # One task

    async def _run_jobs(self, run: Invocation) -> None:
        [job] = run.jobs
        self._saved[job] = SavedSteps(job)
        try:
            result = self._merged(await self._plan_and_do(job, run))
        except StepFailed as failed:
            result = failed.result
        finally:
            del self._saved[job]
        self._report(job, result)

    async def _plan_and_do(self, job: Job, run: Invocation) -> list[StepDone]:
        batch = job.call.batch.take([job.position])
        [planned] = await self._do(job, run, {PLANNER: (self._planner, batch)})
        if planned.result.result is None:
            raise StepFailed(_at("the planner", planned))
        try:
            plan = parse_plan(from_json(planned.result.result), self._max_steps)
            places = [self._place(step, batch) for step in plan.steps]
        except (InvalidPlan, NoOrgan) as error:
            result = HandlerResult(
                "rejected", error=harmless(f"the plan of {planned.organ!r} is wrong: {error}")
            )
            raise StepFailed(result) from None
        if plan.parallel:
            todo = {
                number: (organ, _with(batch, kind, step.params))
                for number, ((organ, kind), step) in enumerate(zip(places, plan.steps, strict=True), 1)
            }
            done = await self._do(job, run, todo)
            _refuse_failures(done, len(plan.steps))
            return done
        done = []
        for number, ((organ, kind), step) in enumerate(zip(places, plan.steps, strict=True), 1):
            params = step.params
            if plan.pass_results:
                params = {**params, "results": [from_json(one.result.result or "null") for one in done]}
            done += await self._do(job, run, {number: (organ, _with(batch, kind, params))})
            _refuse_failures(done, len(plan.steps))
        return done

    def _place(self, step: PlannedStep, batch: Batch) -> tuple[JobRunner, str]:
        """Return the organ of a step and the type of its task.

        Raises:
            NoOrgan: There is no such organ.
        """
        kind = step.type or batch.types[0]
        if step.organ is None:
            return self._router.route(kind, batch.domains[0]), kind
        return self._router.organ(step.organ), kind

    async def _do(
        self, job: Job, run: Invocation, todo: dict[int, tuple[JobRunner, Batch]]
    ) -> list[StepDone]:
        """Run steps by their numbers, all at once, and return how they ended.

        Those that an earlier attempt has completed do not run again.

        Raises:
            StepFailed: The time of the escalated task is over.
        """
        saved = self._saved[job]
        done = {number: one for number in todo if (one := saved.ended(number))}
        numbers = [number for number in todo if number not in done]
        left_s = run.started + job.timeout_s - time.monotonic()
        if left_s <= 0:
            raise StepFailed(
                HandlerResult("timed_out", error=f"timed out after {job.timeout_s:g} s, between two steps")
            )
        batch = Batch()
        for number in numbers:
            batch.extend(todo[number][1])
        batch.checkpoints = [saved.checkpoint(number) for number in numbers]
        call = BatchCall(batch, job.call.context)
        work: dict[JobRunner, list[Job]] = {}
        for position, number in enumerate(numbers):
            organ = todo[number][0]
            own_s = organ.config.timeout_s or self._default_timeout_s
            step = Job(call, position, min(left_s, own_s), PATH)
            work.setdefault(organ, []).append(step)
            saved.begin(number, organ, step)
        try:
            for organ, jobs in work.items():
                organ.submit(jobs)
            async with aclosing(call.chunks()) as chunks:
                async for outcomes in chunks:
                    for report in outcomes.reports:
                        saved.report(numbers[report.position], report)
                    for row, position in enumerate(outcomes.positions):
                        number = numbers[position]
                        result = result_at(outcomes, row)
                        organ_id = todo[number][0].config.id
                        kind = batch.types[position]
                        done[number] = StepDone(organ_id, kind, result, outcomes.elapsed_ms[row])
                        saved.end(number, done[number])
        finally:
            # Reached by cancellation too.
            if call.left:
                for organ, jobs in work.items():
                    organ.drop(jobs)
        return [done[number] for number in todo]

    def _merged(self, done: list[StepDone]) -> HandlerResult:
        steps = [
            {
                "organ": one.organ,
                "type": one.type,
                "result": from_json(one.result.result or "null"),
                "elapsed_ms": round(one.elapsed_ms, 3),
            }
            for one in done
        ]
        try:
            text = to_json({"steps": steps}, limit_bytes=self._shared.result_limit_bytes)
            spent = [one.result.spent for one in done if one.result.spent is not None]
            return HandlerResult("completed", text, spent=sum(spent) if spent else None)
        except NotJson as error:
            return HandlerResult(
                "rejected", error=harmless(f"the results of the steps cannot be stored: {error}")
            )


def _with(batch: Batch, kind: str, params: dict[str, Any]) -> Batch:
    """Return the task of a step, made from the escalated task in ``batch``."""
    step = batch.take([0])
    step.types, step.timeouts = [kind], [None]
    try:
        step.params = [to_json(params, limit_bytes=PARAMS_LIMIT_BYTES)]
    except NotJson as error:
        raise StepFailed(
            HandlerResult("rejected", error=harmless(f"the params of a step are wrong: {error}"))
        ) from None
    return step


def _refuse_failures(done: list[StepDone], steps: int) -> None:
    """Refuse steps that failed.

    Raises:
        StepFailed: A step failed. The error names the first one.
    """
    for number, one in enumerate(done, 1):
        if one.result.cause != "completed":
            raise StepFailed(_at(f"step {number} of {steps}", one))


def _at(place: str, one: StepDone) -> HandlerResult:
    what = f"{place} (organ {one.organ!r}, type {one.type!r}): {one.result.error}"
    # What a snooze asks for stays.
    return one.result._replace(error=harmless(what))
