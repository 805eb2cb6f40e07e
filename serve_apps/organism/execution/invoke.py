"""Calls of one organ's handler, on the event loop, in a thread or in a process, and the results of its tasks.

Every exception is caught. SystemExit and KeyboardInterrupt would end the replica's loop. A CancelledError
that the handler raised by itself is a failure. One that the organ caused does not matter, because the run is
reported already.
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
    """What a plain function returned, if it is something to await."""

    awaitable: Any


class NotIsolated:
    """Says that a suspect got no process of its own, because none starts."""


NOT_ISOLATED = NotIsolated()


class HandlerCaller:
    """Calls the handler of one organ.

    Args:
        config: Configuration of the organ.
        handler: The handler, loaded by `load_handler` or `ProcessPool.load`.
        rules: What all organs of the replica share.
    """

    def __init__(self, config: OrganConfig, handler: Handler, rules: SharedRules) -> None:
        self._batch = config.batch
        self._handler = handler
        self._rules = rules
        self.on_loop = handler.is_async and handler.processes is None
        """True for a call on the event loop; False for one in a thread, which may wait for a process."""

    async def results(self, run: Invocation) -> Endings:
        """Call the async handler of ``run`` and return the results of its tasks; never raises."""
        try:
            return self.endings(run, await self._call(run))
        except BaseException as error:
            return self.failures(run, error)

    def _call(self, run: Invocation) -> Any:
        """Return what the handler returns, something to await if it is async; raise what it raises."""
        return self._handler.call(*run.arguments(self._handler, batch=self._batch))

    def endings(self, run: Invocation, value: Any) -> Endings:
        """Return the results of the tasks of ``run``, which returned ``value``; raise like `of_value`."""
        end_if_forked()
        return of_value(value, len(run.jobs), self._rules.result_limit_bytes, batch=self._batch)

    def failures(self, run: Invocation, error: BaseException) -> Endings:
        """Return the result of the task of ``run``, which raised ``error``; none if it has several tasks."""
        end_if_forked()
        return of_error(error, len(run.jobs))

    async def wait(self, run: Invocation, awaitable: Awaitable[Any]) -> Endings:
        """Await what the handler of ``run`` returned, and return the results of its tasks; never raises."""
        try:
            return self.endings(run, await awaitable)
        except BaseException as error:
            return self.failures(run, error)

    def in_thread(self, run: Invocation) -> Endings | AwaitableResult | NotIsolated:
        """Call the handler in the current thread, and encode the results there too; never raises."""
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
        """Kill the process of ``run``, if it runs in one. The run must be reported already."""
        if run.processes is not None:
            run.processes.kill(run)

    def place(self, run: Invocation) -> str:
        """Return where in the handler's own code ``run`` is; empty if unknown."""
        if run.work is not None:
            return place_of_frame(sys._current_frames().get(run.work.thread_id or 0))
        return place_of_coroutine(run.task.get_coro()) if run.task else ""
