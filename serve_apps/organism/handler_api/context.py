"""What a handler may know of the call it is in, and say about it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any

logger = logging.getLogger("ray.serve.organism.handler")


class TaskLogger(logging.LoggerAdapter[logging.Logger]):
    """Names the task in every line."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = self.extra or {}
        return f"task {extra['task_id']} claim {extra['claim']}: {msg}", kwargs


class Context:
    """Given to a handler that has a parameter called ``context``. May be used from any thread.

    Args:
        task: What the handler gets.
        started: When the handler was called, by `time.monotonic`.
        timeout_s: Seconds it may take from then on.
        cancelled: Whether anybody still waits for it.
    """

    __slots__ = ("_cancelled", "attempt", "claim", "deadline", "progressed", "task_id")

    def __init__(
        self, task: dict[str, Any], started: float, timeout_s: float, cancelled: Callable[[], bool]
    ) -> None:
        self.task_id: str = task["task_id"]
        self.claim: int = task["claim"]
        """Fencing token: only ever grows, over all tasks."""
        self.attempt: int = task["attempt"]
        """1 for the first."""
        self.deadline = started + timeout_s
        """By `time.monotonic`; after it the task is reported as timed out, whatever is returned."""
        self.progressed: tuple[float | None, str] = (None, "")
        self._cancelled = cancelled

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline; never negative."""
        return max(self.deadline - time.monotonic(), 0.0)

    @property
    def cancelled(self) -> bool:
        """Nobody waits for the task here any more, and whatever is returned now is thrown away: it was
        cancelled, it timed out, its lane lost it, a newer claim of it began, or the replica is taken down.

        An async handler is cancelled as well; a plain function cannot be stopped, and should look here.
        """
        return self._cancelled()

    @property
    def logger(self) -> TaskLogger:
        """A logger that names the task in every line of the replica's log."""
        return TaskLogger(logger, {"task_id": self.task_id, "claim": self.claim})

    def progress(self, fraction: float | None = None, note: str = "") -> None:
        """Say how far the task is, from 0 to 1, or in words; shown in the organism's status."""
        self.progressed = (fraction, note[:200])
