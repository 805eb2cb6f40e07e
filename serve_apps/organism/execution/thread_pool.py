"""Threads of one organ, for handlers that are plain functions.

Not `concurrent.futures`: a thread that hangs must neither keep its place for ever nor keep the process from
ending. And one wake-up of the loop brings many results, because it costs more than a small task.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Literal


class ThreadCall:
    """One call on its way through the threads."""

    __slots__ = ("call", "done", "state", "thread_id")

    state: Literal["waiting", "running", "done", "abandoned"]

    def __init__(self, call: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.call = call
        self.done = done
        self.state = "waiting"
        self.thread_id: int | None = None

    def is_abandoned(self) -> bool:
        return self.state == "abandoned"


class ThreadPool:
    """Runs calls in daemon threads, as many at once as its owner submits.

    Every method is called on the event loop. Calls must not raise.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.abandoned = 0
        """Number of threads that were given up and still run."""
        self._queue: SimpleQueue[ThreadCall | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._ended: deque[tuple[ThreadCall, Any]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waking = False
        self._alive = 0
        self._busy = 0
        self._closed = False

    def submit(self, call: Callable[[], Any], done: Callable[[Any], None]) -> ThreadCall:
        """Run ``call`` in a thread, then call ``done`` with its value on the loop.

        Raises:
            RuntimeError: The system refuses another thread.
        """
        self._loop = asyncio.get_running_loop()
        if self._busy >= self._alive:
            threading.Thread(target=self._serve, name=f"organ-{self.name}", daemon=True).start()
            self._alive += 1
        self._busy += 1
        work = ThreadCall(call, done)
        self._queue.put(work)
        return work

    def abandon(self, work: ThreadCall) -> bool:
        """Give up ``work``, so that another thread can take its place; return False if it has just ended."""
        with self._lock:
            if work.state == "done":
                return False
            was_running = work.state == "running"
            work.state = "abandoned"
        self._busy -= 1
        if was_running:
            self._alive -= 1
            self.abandoned += 1
        return True

    def close(self) -> None:
        """Let threads end: idle ones at once, busy ones after their work."""
        if not self._closed:
            self._closed = True
            for _ in range(self._alive):
                self._queue.put(None)

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            with self._lock:
                if work.is_abandoned():
                    continue
                work.state = "running"
                work.thread_id = threading.get_ident()
            value = work.call()
            with self._lock:
                abandoned = work.is_abandoned()
                if not abandoned:
                    work.state = "done"
                self._ended.append((work, value))
                wake = not self._waking
                self._waking = True
            if wake and self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: no result is awaited any more
                    self._loop.call_soon_threadsafe(self._collect)
            if abandoned:
                return
            del work, value

    def _collect(self) -> None:
        with self._lock:
            self._waking = False
            ended = list(self._ended)
            self._ended.clear()
        for work, value in ended:
            if work.is_abandoned():
                self.abandoned -= 1
            else:
                self._busy -= 1
            work.done(value)
