"""The context of a handler call: what a handler can read about the call, and report of it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from organism_flows.blocks.tracing import current_traceparent
from organism_flows.serve_apps.organism.handler_api.log_lines import LogLines

logger = logging.getLogger("ray.serve.organism.handler")


class TaskLogger(logging.LoggerAdapter[logging.Logger]):
    """Logger that names the task, and its trace if there is one, in every line, and keeps the newest lines.

    Args:
        logger: Logger of the replica.
        extra: ``task_id`` and ``claim``.
        kept: Keeps the lines.
    """

    def __init__(self, logger: logging.Logger, extra: dict[str, Any], kept: LogLines) -> None:
        super().__init__(logger, extra)
        self._kept = kept

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log a message, and keep it with the task from level INFO on, whatever the replica's log has."""
        if level >= logging.INFO or self.isEnabledFor(level):
            error = kwargs.get("exc_info")
            if error and not isinstance(error, BaseException):
                error = sys.exc_info()[1]
            self._kept.add(level, msg, args, error or None)
        super().log(level, msg, *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = self.extra or {}
        traceparent = current_traceparent()
        trace = f" trace {traceparent[3:35]}" if traceparent else ""
        return f"task {extra['task_id']} claim {extra['claim']}{trace}: {msg}", kwargs


class Context:
    """The context that a handler with a parameter called ``context`` gets. It is safe in any thread.

    Args:
        task: The task that the handler gets.
        started: When the handler was called, by `time.monotonic`.
        timeout_s: Seconds the handler may take from then on.
        cancelled: Returns True if the task's result is no longer awaited.
    """

    __slots__ = ("_cancelled", "_log", "attempt", "claim", "deadline", "progressed", "task_id")

    def __init__(
        self, task: dict[str, Any], started: float, timeout_s: float, cancelled: Callable[[], bool]
    ) -> None:
        self.task_id: str = task["task_id"]
        self.claim: int = task["claim"]
        """Fencing token. It only ever grows, over all tasks."""
        self.attempt: int = task["attempt"]
        """Number of the attempt, from 1."""
        self.deadline = started + timeout_s
        """By `time.monotonic`. After it the task is reported as timed out, whatever the handler returns."""
        self.progressed: tuple[float | None, str] = (None, "")
        self._cancelled = cancelled
        self._log: LogLines | None = None

    @property
    def remaining_s(self) -> float:
        """Return the seconds until the deadline, never negative."""
        return max(self.deadline - time.monotonic(), 0.0)

    @property
    def cancelled(self) -> bool:
        """Return True if the result is no longer awaited: what the handler returns now is thrown away.

        The task was cancelled, it timed out, its lane lost it, a newer claim of it began, or the replica is
        taken down. An async handler is cancelled as well. A plain function cannot be stopped, and should
        check this.
        """
        return self._cancelled()

    @property
    def logger(self) -> TaskLogger:
        """Return a logger that names the task in every line of the replica's log.

        The newest lines from level INFO on, up to 16 kB, are also kept with the task.
        """
        self._log = self._log or LogLines()
        return TaskLogger(logger, {"task_id": self.task_id, "claim": self.claim}, self._log)

    @property
    def logged(self) -> str | None:
        """Return the newest lines that were logged; `None` means that there are none."""
        return self._log.text() if self._log is not None else None

    def progress(self, fraction: float | None = None, note: str = "") -> None:
        """Report how far the task is, from 0 to 1 or in words. The organism's status shows it.

        Args:
            fraction: Done share of the task, from 0 to 1; `None` means unknown.
            note: Progress in words; at most 200 characters are kept.
        """
        self.progressed = (fraction, note[:200])
