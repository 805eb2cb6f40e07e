"""Calls one organ's handler, on the event loop, in a thread or in a process, and makes endings of it.

Everything is caught: SystemExit and KeyboardInterrupt would end the replica's loop, and a CancelledError the
handler raised by itself is a failure; when it is ours, the run is reported already.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.execution.jobs import Invocation
from organism_flows.serve_apps.organism.handler_api.context import Context
from organism_flows.serve_apps.organism.handler_api.errors import place_of_coroutine, place_of_frame
from organism_flows.serve_apps.organism.handler_api.handler import Handler, HandlerProcesses
from organism_flows.serve_apps.organism.handler_api.results import Endings, of_error, of_value
from organism_flows.serve_apps.organism.processes.forked import end_if_forked
from organism_flows.serve_apps.organism.processes.pool import StartFailed

if TYPE_CHECKING:
    from organism_flows.serve_apps.organism.execution.protocol import SharedRules


@dataclass(slots=True)
class AwaitableResult:
    """A plain function turned out to return something to await."""

    awaitable: Any


class NotIsolated:
    """A suspect could not have a process of its own, because none starts."""


NOT_ISOLATED = NotIsolated()


class HandlerCaller:
    """Calls the handler of one organ.

    Args:
        config: Of the organ.
        handler: What `load_handler` or `ProcessPool.load` made of it.
        rules: What applies to every organ.
    """

    def __init__(self, config: OrganConfig, handler: Handler, rules: SharedRules) -> None:
        self._batch = config.batch
        self._handler = handler
        self._rules = rules
        self.on_loop = handler.is_async and handler.processes is None
        """Else it is called in a thread, which may wait for a process."""

    async def results(self, run: Invocation) -> Endings:
        """Call the async handler of ``run`` and return the results of its tasks; never raises."""
        try:
            return self.endings(run, await self._call(run))
        except BaseException as error:
            return self.failures(run, error)

    def _call(self, run: Invocation) -> Any:
        """What the handler returns, something to await if it is async; raises what it raises."""
        return self._handler.call(*run.arguments(self._handler, batch=self._batch))

    def endings(self, run: Invocation, value: Any) -> Endings:
        """The endings of the tasks of ``run``, which returned ``value``; raises what `of_value` raises."""
        end_if_forked()
        return of_value(value, len(run.jobs), self._rules.result_limit_bytes, batch=self._batch)

    def failures(self, run: Invocation, error: BaseException) -> Endings:
        """The endings of the tasks of ``run``, which raised ``error``; none: a batch failed as a whole."""
        end_if_forked()
        return of_error(error, len(run.jobs))

    async def wait(self, run: Invocation, awaitable: Awaitable[Any]) -> Endings:
        """Wait for what the handler returned."""
        try:
            return self.endings(run, await awaitable)
        except BaseException as error:
            return self.failures(run, error)

    def in_thread(self, run: Invocation) -> Endings | AwaitableResult | NotIsolated:
        """Call the handler on a thread, and encode there too."""
        try:
            if run.processes is not None:
                return self._in_process(run, run.processes)
            value = self._call(run)
            end_if_forked()
            return AwaitableResult(value) if inspect.isawaitable(value) else self.endings(run, value)
        except BaseException as error:
            return self.failures(run, error)

    def _in_process(self, run: Invocation, processes: HandlerProcesses) -> Endings | NotIsolated:
        context = Context(run.tasks[0], run.started, run.timeout_s, lambda: run.reported)
        if self._handler.wants_context:
            run.context = context
        tasks = [
            {**task, "params": job.call.batch.params[job.position]}
            for task, job in zip(run.tasks, run.jobs, strict=True)
        ]
        try:
            return processes.call(
                run,
                tasks,
                timeout_s=run.timeout_s,
                limit_bytes=self._rules.result_limit_bytes,
                progress=context.progress,
                on_begin=run.on_begin,
                unwanted=lambda: run.reported,
            )
        except StartFailed as failed:
            if processes is not self._handler.processes:
                return NOT_ISOLATED
            raise failed.error from None

    def kill(self, run: Invocation) -> None:
        """Kill the process of ``run``, which is reported already, if it runs in one."""
        if run.processes is not None:
            run.processes.kill(run)

    def place(self, run: Invocation) -> str:
        """Where in the handler's own code ``run`` is; empty if unknown."""
        if run.work is not None:
            return place_of_frame(sys._current_frames().get(run.work.thread_id or 0))
        return place_of_coroutine(run.task.get_coro()) if run.task else ""
