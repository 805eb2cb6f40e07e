"""How a handler learns that its replica is taken down."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any


class Leaving:
    """Whether a handler must leave, and until when. It is true once it must. It is safe in any thread."""

    __slots__ = ("_called", "_event", "deadline")

    def __init__(self) -> None:
        self.deadline: float | None = None
        """When the handler is stopped, by `time.monotonic`. `None` means that it may stay."""
        self._event = threading.Event()
        self._called: list[Future[None]] = []

    def __bool__(self) -> bool:
        return self._event.is_set()

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until the handler must leave, in an ``async def``."""
        import asyncio

        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        self._called.append(future)
        if self:
            self._call()
        return asyncio.wrap_future(future).__await__()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the handler must leave, in a plain function.

        Args:
            timeout: Longest wait, in seconds.

        Returns:
            True if it must.
        """
        return self._event.wait(timeout)

    def begin(self, within_s: float) -> None:
        """Say that the handler must leave within so many seconds."""
        self.deadline = time.monotonic() + within_s
        self._event.set()
        self._call()

    def _call(self) -> None:
        while self._called:
            with suppress(IndexError, InvalidStateError):
                self._called.pop().set_result(None)
