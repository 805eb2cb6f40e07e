"""Calls of one organ's handler, on the event loop, in a thread or in a process."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any

from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.blocks.tracing import current_traceparent
from organism_flows.serve_apps.organism.execution.handler_spans import handler_span, in_span
from organism_flows.serve_apps.organism.execution.jobs import Invocation, Job
from organism_flows.serve_apps.organism.execution.shared_state import SharedState
from organism_flows.serve_apps.organism.handler_api.errors import place_of_coroutine, place_of_frame
from organism_flows.serve_apps.organism.handler_api.handler import Handler, HandlerProcesses, ProcessCall
from organism_flows.serve_apps.organism.handler_api.handler_call import HandlerCall
from organism_flows.serve_apps.organism.handler_api.results import HandlerResults
from organism_flows.serve_apps.organism.processes.pool import StartFailed


@dataclass(slots=True)
class AwaitableResult:
    """What a plain function returned, if it is something to await."""

    awaitable: Any


class NotIsolated:
    """Says that a suspect got no process of its own, because none starts."""


NOT_ISOLATED = NotIsolated()


class HandlerCaller:
    """Calls the handler of one organ. No method raises what the handler raises.

    Args:
        handler: The handler, loaded by `load_handler` or `ProcessPool.load`.
        shared: What all organs of the replica share.
    """

    def __init__(self, handler: Handler, shared: SharedState) -> None:
        self._handler = handler
        self._shared = shared
        self.on_loop = handler.is_async and handler.processes is None
        """True for a call on the event loop; False for one in a thread, which may wait for a process."""

    def results(
        self, run: Invocation, returned: Awaitable[Any] | None = None
    ) -> Coroutine[Any, Any, HandlerResults]:
        """Return a coroutine that calls the async handler of ``run`` and returns the results of its tasks.

        Args:
            run: The invocation.
            returned: What the handler has returned already, if it was called in a thread.
        """
        call = self._on_loop(run, returned)
        # A span that does nothing still cost a fourth of a no-op.
        return in_span(run, call) if run.jobs[0].call.batch.traces else call

    async def _on_loop(self, run: Invocation, returned: Awaitable[Any] | None) -> HandlerResults:
        with HandlerCall(len(run.jobs)) as call:
            value = await (self._call(run) if returned is None else returned)
            call.results = self._results(run, value)
        return call.results

    def in_thread(self, run: Invocation) -> HandlerResults | AwaitableResult | NotIsolated:
        """Call the handler in the current thread, and encode the results there too."""
        with handler_span(run) as outcome:
            with HandlerCall(len(run.jobs)) as call:
                if run.processes is not None:
                    return self._in_process(run, run.processes)
                value = self._call(run)
                if inspect.isawaitable(value):
                    return AwaitableResult(value)
                call.results = self._results(run, value)
            outcome.results = call.results
        return call.results

    def _call(self, run: Invocation) -> Any:
        handler = self._handler
        return handler.call_with(run.tasks, run.contexts() if handler.wants_context else [])

    def _results(self, run: Invocation, value: Any) -> HandlerResults:
        return self._handler.results(value, len(run.jobs), self._shared.result_limit_bytes)

    def _in_process(self, run: Invocation, processes: HandlerProcesses) -> HandlerResults | NotIsolated:
        tasks = [
            {**task, "params": job.call.batch.params[job.position]}
            for task, job in zip(run.tasks, run.jobs, strict=True)
        ]
        try:
            return processes.call(
                ProcessCall(
                    key=run,
                    tasks=tasks,
                    timeout_s=run.timeout_s,
                    limit_bytes=self._shared.result_limit_bytes,
                    checkpoints=[job.call.batch.checkpoints[job.position] for job in run.jobs],
                    task_key=run.jobs[0].key,
                    waits={job.claim: job.wait for job in run.jobs if job.wait is not None},
                    contexts=run.contexts() if self._handler.wants_context else [],
                    traceparent=current_traceparent(),
                    on_begin=run.on_begin,
                    unwanted=lambda: run.reported,
                )
            )
        except StartFailed as failed:
            if processes is not self._handler.processes:
                return NOT_ISOLATED
            raise failed.error from None

    def acknowledge(self, job: Job, answer: Acknowledgement) -> None:
        """Let the handler of ``job`` know what became of its reports."""
        if job.run is not None and job.run.processes is not None:
            job.run.processes.answer(job.run, job.claim, answer)
        elif job.context is not None:
            job.context.acknowledge(answer)

    def kill(self, run: Invocation) -> None:
        """Kill the process of ``run``, if it runs in one. The run must be reported already."""
        if run.processes is not None:
            run.processes.kill(run)

    def place(self, run: Invocation) -> str:
        """Return where in the handler's own code ``run`` is; empty if unknown."""
        if run.work is not None:
            return place_of_frame(sys._current_frames().get(run.work.thread_id or 0))
        return place_of_coroutine(run.task.get_coro()) if run.task else ""
