"""A handler that is ready to be called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from organism_flows.blocks.task_report import Acknowledgement, Checkpoint, EndedWait
from organism_flows.serve_apps.organism.handler_api.context import Context
from organism_flows.serve_apps.organism.handler_api.results import HandlerResults, of_value


@dataclass(frozen=True, slots=True)
class ProcessCall:
    """One call of a handler in a worker process."""

    key: Any
    """Names the call for `HandlerProcesses.kill`."""
    tasks: list[dict[str, Any]]
    """The tasks, with their params as JSON text."""
    timeout_s: float
    """Seconds that the tasks may take once a process has them. Only the handler gets to know this; the caller
    has to kill the call."""
    limit_bytes: int
    """Longest result, in bytes of JSON text."""
    contexts: list[Context]
    """The contexts of the tasks, which get what the handler reports; empty if it wants none."""
    checkpoints: list[Checkpoint | None]
    """Where earlier attempts of the tasks got to."""
    waits: dict[int, EndedWait]
    """How the newest waits of the tasks have ended, by claim."""
    task_key: str | None
    """Key of the tasks, if their type runs those of one key together."""
    traceparent: str | None
    """Trace context of the call; `None` means that it is not traced."""
    on_begin: Callable[[], object]
    """Called when a process that is ready has received the tasks."""
    unwanted: Callable[[], bool]
    """Returns True if the tasks are given up. It must do so before the call is killed."""


class HandlerProcesses(Protocol):
    """The worker processes that one handler is called in. Its methods are safe in any thread."""

    problem: str | None
    """Why processes do not start; `None` means that they do."""

    def expand(self, more: int) -> None:
        """Allow ``more`` processes at once."""
        ...

    def shrink(self, less: int) -> None:
        """Allow ``less`` fewer processes at once."""
        ...

    def call(self, call: ProcessCall) -> HandlerResults:
        """Call the handler in a process and wait for the results; see `ProcessPool.call`."""
        ...

    def answer(self, key: Any, claim: int, answer: Acknowledgement) -> None:
        """Pass the answer to what a task has reported to the process of the call with this key."""
        ...

    def kill(self, key: Any) -> None:
        """Kill the process of the call with this key, if it has one."""
        ...

    def status(self) -> list[dict[str, Any]]:
        """Return the processes, as plain data."""
        ...


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler ready to be called with a task, or with a list of tasks if its organ says ``batch``."""

    call: Callable[..., Any]
    is_async: bool
    wants_context: bool = False
    """True if it takes the context of its task, or the contexts of its batch."""
    batch: bool = False
    """True if it takes a list of tasks."""
    processes: HandlerProcesses | None = None
    """The worker processes it is called in. `None` means this process."""
    version: str | None = None
    """Version of its code; see `release.handler_code.code_version`."""

    def call_with(self, tasks: list[dict[str, Any]], contexts: list[Context]) -> Any:
        """Call it with the tasks of one call, and with their contexts if it wants them."""
        if self.wants_context:
            return self.call(tasks, contexts) if self.batch else self.call(tasks[0], contexts[0])
        return self.call(tasks if self.batch else tasks[0])

    def results(self, value: Any, size: int, limit_bytes: int) -> HandlerResults:
        """Return the results of the ``size`` tasks of one call that returned ``value``; see `of_value`."""
        return of_value(value, size, limit_bytes, batch=self.batch)
