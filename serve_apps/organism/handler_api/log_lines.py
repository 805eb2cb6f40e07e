"""The logger of a task, and the last lines that its handler logged, in bounded form."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

from organism_flows.blocks.tracing import current_traceparent
from organism_flows.serve_apps.organism.handler_api.errors import harmless

LOG_BYTES = 16_000
"""Longest log that is kept of an attempt, in bytes. Older lines give way to newer ones."""
LINE_BYTES = 4_000


class LogLines:
    """Keeps the newest lines, up to `LOG_BYTES`. It is safe in any thread."""

    __slots__ = ("_bytes", "_dropped", "_lines", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[str] = deque()
        self._bytes = 0
        self._dropped = 0

    def add(self, level: int, message: object, args: tuple[Any, ...], error: BaseException | None) -> None:
        """Add one call of a logger. Never raises: a log must not fail a task."""
        try:
            text = str(message) % args if args else str(message)
            if error is not None:
                text += "\n" + "".join(traceback.format_exception(error)).rstrip()
        except Exception as wrong:
            text = f"a line that cannot be formatted: {type(wrong).__name__}"
        at = datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
        line = harmless(f"{at} {logging.getLevelName(level)} {text}")
        size = len(line.encode())
        if size > LINE_BYTES:
            line = line.encode()[:LINE_BYTES].decode(errors="ignore") + "…"
            size = len(line.encode())
        with self._lock:
            self._lines.append(line)
            self._bytes += size + 1
            while self._bytes > LOG_BYTES:
                self._bytes -= len(self._lines.popleft().encode()) + 1
                self._dropped += 1

    def text(self) -> str | None:
        """Return the lines; `None` means that there are none."""
        with self._lock:
            if not self._lines:
                return None
            before = [f"({self._dropped} lines before these are not kept)"] if self._dropped else []
            return "\n".join([*before, *self._lines])


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
