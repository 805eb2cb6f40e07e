"""A handler that is ready to be called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from organism_flows.serve_apps.organism.handler_api.results import Endings


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

    def call(
        self,
        key: Any,
        tasks: list[dict[str, Any]],
        *,
        timeout_s: float,
        limit_bytes: int,
        progress: Callable[[float | None, str], None],
        on_begin: Callable[[], object],
        unwanted: Callable[[], bool],
    ) -> Endings:
        """Call the handler in a process and wait for the results of ``tasks``; see `ProcessPool.call`."""
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
    """Takes a task, or a list of tasks, and a `Context` if ``wants_context``."""
    is_async: bool
    wants_context: bool = False
    processes: HandlerProcesses | None = None
    """The worker processes it is called in. `None` means this process."""
