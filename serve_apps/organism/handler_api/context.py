"""The context of a handler call: what a handler can read about the call, and report of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any

logger = logging.getLogger("ray.serve.organism.handler")


class TaskLogger(logging.LoggerAdapter[logging.Logger]):
    """Logger that names the task in every line."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = self.extra or {}
        return f"task {extra['task_id']} claim {extra['claim']}: {msg}", kwargs


class Context:
    """The context that a handler with a parameter called ``context`` gets. It is safe in any thread.

    Args:
        task: The task that the handler gets.
        started: When the handler was called, by `time.monotonic`.
        timeout_s: Seconds the handler may take from then on.
        cancelled: Returns True if the task's result is no longer awaited.
    """

    __slots__ = ("_cancelled", "attempt", "claim", "deadline", "progressed", "task_id", "units")

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
        self.units: float | None = None
        """What the handler has spent so far. `None` means that it said nothing."""
        self.progressed: tuple[float | None, str] = (None, "")
        self._cancelled = cancelled

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
        """Return a logger that names the task in every line of the replica's log."""
        return TaskLogger(logger, {"task_id": self.task_id, "claim": self.claim})

    def progress(self, fraction: float | None = None, note: str = "") -> None:
        """Report how far the task is, from 0 to 1 or in words. The organism's status shows it.

        Args:
            fraction: Done share of the task, from 0 to 1; `None` means unknown.
            note: Progress in words; at most 200 characters are kept.
        """
        self.progressed = (fraction, note[:200])

    def spent(self, units: float) -> None:
        """Report units that the task has spent, such as tokens or cents. Several reports add up.

        They take the place of its estimate in limits of the kind ``cost``. Report 0 if it has spent nothing.

        Raises:
            ValueError: ``units`` is negative, or no number.
        """
        more = float(units)
        if not 0 <= more < float("inf"):
            raise ValueError(f"spent({units!r:.50}): units are 0 or more")
        self.units = (self.units or 0.0) + more
