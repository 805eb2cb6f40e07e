"""A handler that is ready to be called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from organism_flows.serve_apps.organism.handler_api.results import Endings


class HandlerProcesses(Protocol):
    """The worker processes that one handler is called in. Its methods may be called from any thread."""

    problem: str | None
    """Why processes do not start."""

    def expand(self, more: int) -> None:
        """Allow ``more`` processes at once."""
        ...

    def shrink(self, less: int) -> None:
        """Allow fewer processes at once."""
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
        """Kill the process that the call of this key is in."""
        ...

    def status(self) -> list[dict[str, Any]]:
        """Return what each process does."""
        ...


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler ready to be called with a task, or a list of tasks when its organ says ``batch``."""

    call: Callable[..., Any]
    """With a task, and a `Context` if it wants one."""
    is_async: bool
    wants_context: bool = False
    processes: HandlerProcesses | None = None
    """The worker processes it is called in. `None` means this process."""
