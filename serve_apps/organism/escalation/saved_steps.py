"""The checkpoint of an escalated task: its plan, the steps that have ended, and what the others have saved.

It is made once the planner or a step saves a state. A task whose steps save nothing costs nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from organism_flows.blocks.json_text import NotJson, from_json, to_json
from organism_flows.blocks.snooze import Snooze
from organism_flows.blocks.task_report import Acknowledgement, Checkpoint, Chunks, TaskReport
from organism_flows.serve_apps.organism.execution.job_runner import JobRunner, logger
from organism_flows.serve_apps.organism.execution.jobs import Job
from organism_flows.serve_apps.organism.handler_api.context import STATE_LIMIT_BYTES
from organism_flows.serve_apps.organism.handler_api.results import HandlerResult

PLANNER = 0
"""Number of the planner among the steps."""


@dataclass(slots=True)
class StepDone:
    """A step that has ended."""

    organ: str
    type: str
    result: HandlerResult
    elapsed_ms: float


@dataclass(slots=True)
class EndedStep:
    """A step that has completed, as it is saved."""

    organ: str
    type: str
    result: Any
    elapsed_ms: float


@dataclass(slots=True)
class SavedPlan:
    """What is saved, as plain data. Steps are numbered from 1; the planner is 0."""

    ended: dict[int, EndedStep] = field(default_factory=dict)
    states: dict[int, Any] = field(default_factory=dict)
    """Newest state of each of the others that has saved one."""
    counts: dict[int, int] = field(default_factory=dict)
    """How many states led to the newest one of each, ended or not."""


_PLAN = TypeAdapter(SavedPlan)


class SavedSteps:
    """What one escalated task has saved, and saves while its steps run.

    Args:
        job: The task.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._saved = SavedPlan()
        self._active = False
        self._steps: dict[int, tuple[JobRunner, Job]] = {}
        """What runs now, by number."""
        self._awaited: dict[int, tuple[int, int]] = {}
        """Steps of the newest checkpoint that is waited for, by number: of the task, and of its step."""
        self._emitted: list[tuple[int, str]] = []
        """Chunks of all steps in the order of the stream, with the numbers of their steps."""
        self._unsaved: dict[int, str] = {}
        """Why the newest state of a step is not saved, by number."""
        checkpoint = job.call.batch.checkpoints[job.position]
        if checkpoint is None:
            return
        try:
            self._saved = _PLAN.validate_python(from_json(checkpoint.state))
            self._active = True
        except (ValidationError, ValueError):
            # Saved by a handler: the task was not escalated at that time.
            logger.warning("task %s: its checkpoint is of no plan; it is planned again", job.claim)

    def ended(self, number: int) -> StepDone | None:
        """Return a step that has completed in this attempt or an earlier one."""
        if (one := self._saved.ended.get(number)) is None:
            return None
        text = to_json(one.result, limit_bytes=STATE_LIMIT_BYTES)
        return StepDone(one.organ, one.type, HandlerResult("completed", text), one.elapsed_ms)

    def checkpoint(self, number: int) -> Checkpoint | None:
        """Return what a step saved in an earlier attempt."""
        if number not in self._saved.states:
            return None
        state = to_json(self._saved.states[number], limit_bytes=STATE_LIMIT_BYTES)
        return Checkpoint(self._saved.counts.get(number, 0), state)

    def begin(self, number: int, organ: JobRunner, step: Job) -> None:
        """Note what runs a step, so that answers reach it."""
        self._steps[number] = (organ, step)

    def end(self, number: int, done: StepDone) -> None:
        """Keep a step that has ended, if it has completed."""
        self._steps.pop(number, None)
        self._awaited.pop(number, None)
        if done.result.cause == "snoozed" and Snooze.from_json(done.result.result).event:
            # The plan that waits is the one that continues.
            self._active = True
            self._save(TaskReport(), number)
        if done.result.cause != "completed":
            return
        value = from_json(done.result.result or "null")
        self._saved.ended[number] = EndedStep(done.organ, done.type, value, done.elapsed_ms)
        self._saved.states.pop(number, None)
        if self._active:
            self._save(TaskReport(), number)

    def report(self, number: int, report: TaskReport) -> None:
        """Take what a step reports, and report it for the task."""
        if report.chunks is not None:
            report = report._replace(chunks=self._in_stream(number, report.chunks))
        if report.state is not None:
            self._active = True
            self._saved.states[number] = from_json(report.state)
            self._saved.counts[number] = report.step
            self._save(report, number)
        elif report.awaited or report.progress or report.chunks:
            self._pass_on(report)
        if report.awaited and number in self._unsaved:
            self._answer(number, Acknowledgement(report.step, self._unsaved[number]))
        elif report.awaited:
            self._awaited[number] = (self._step(), report.step)

    def acknowledge(self, answer: Acknowledgement) -> None:
        """Pass an answer on to the steps that wait for it, and the request to leave on to all of them."""
        if answer.leave_within_s is not None:
            for organ, step in list(self._steps.values()):
                organ.ask_to_leave([step], answer.leave_within_s)
            return
        for number, (of_task, of_step) in list(self._awaited.items()):
            if answer.problem is not None or of_task <= answer.step:
                del self._awaited[number]
                self._answer(number, answer._replace(step=of_step))

    def _in_stream(self, number: int, chunks: Chunks) -> Chunks:
        """Return chunks of a step as chunks of the one stream that all steps share.

        If the step is run again alone, because its batch failed as a whole, what it emitted before no longer
        counts: the stream begins again, with what the other steps have emitted.
        """
        again = chunks.anew and any(of == number for of, _ in self._emitted)
        if again:
            self._emitted = [one for one in self._emitted if one[0] != number]
        self._emitted += ((number, text) for text in chunks.texts)
        return chunks._replace(
            texts=[text for _, text in self._emitted] if again else chunks.texts, anew=again
        )

    def _step(self) -> int:
        return sum(self._saved.counts.values()) + len(self._saved.ended)

    def _save(self, report: TaskReport, number: int) -> None:
        try:
            state = to_json(_PLAN.dump_python(self._saved, mode="json"), limit_bytes=STATE_LIMIT_BYTES)
        except NotJson as error:
            self._unsaved[number] = str(error).replace("$", "the plan with the results of its steps", 1)
            logger.warning("claim %d: nothing is saved: %s", self._job.claim, self._unsaved[number])
            if report.chunks is not None:
                self._pass_on(TaskReport(chunks=report.chunks))
            return
        self._unsaved.pop(number, None)
        self._pass_on(report._replace(state=state))

    def _pass_on(self, report: TaskReport) -> None:
        self._job.call.report_running(report._replace(position=self._job.position, step=self._step()))

    def _answer(self, number: int, answer: Acknowledgement) -> None:
        if number in self._steps:
            organ, step = self._steps[number]
            organ.acknowledge(step, answer)
