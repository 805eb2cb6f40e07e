"""The pool of worker processes that one organ's handler is called in.

Not `concurrent.futures`: there one death breaks the pool, and a single call cannot be killed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.handler_api.handler import Handler, ProcessCall
from organism_flows.serve_apps.organism.handler_api.loading import load_handler, refusal
from organism_flows.serve_apps.organism.handler_api.results import HandlerResults
from organism_flows.serve_apps.organism.processes.worker_main import ReadyMessage
from organism_flows.serve_apps.organism.processes.worker_process import WorkerProcess, WorkerProcessDied

logger = logging.getLogger("ray.serve.organism")

START_S = 600.0
"""Longest time a process may take to import its handler, in seconds; the first process may take any time."""
FAILED_STARTS = 3
"""Number of failed starts in a row after which the replica asks to be replaced."""
LONGEST_PAUSE_S = 10.0
"""Longest pause before the next start when starts fail, in seconds."""


def load(organ: OrganConfig) -> Handler:
    """Return the handler of ``organ``, loaded in this process or in the first one of its own.

    Raises:
        ConfigurationError: The handler cannot be used.
    """
    return ProcessPool(organ).load() if organ.processes else load_handler(organ)


@contextlib.contextmanager
def closed_on_error(handlers: Mapping[str, Handler]) -> Iterator[None]:
    """End the processes of those among ``handlers`` that no organ uses yet, if the block raises."""
    try:
        yield
    except BaseException:
        for handler in handlers.values():
            if handler.processes is not None:
                handler.processes.shrink(0)
        raise


class StartFailed(Exception):
    """Error: no process could be started for a call.

    Args:
        error: The reason.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True, eq=False)
class ProcessStart:
    """A process that is being started."""

    ended: bool = False
    error: Exception | None = None


class ProcessPool:
    """The worker processes of one organ, started when needed and used again. It is safe in any thread.

    Args:
        organ: Configuration of the organ.
    """

    def __init__(self, organ: OrganConfig) -> None:
        self._organ = organ
        self._changed = threading.Condition()
        self._idle: list[WorkerProcess] = []
        """The process that was used last comes last."""
        self._busy: dict[Any, WorkerProcess] = {}
        """Processes by the key of their call."""
        self._starting = 0
        self._limit = 0
        self._failed_starts = 0
        self._closed = threading.Event()
        self.problem: str | None = None
        """Why processes do not start; `None` means that they do."""

    def load(self) -> Handler:
        """Start the first process, and return its handler.

        Raises:
            ConfigurationError: The handler cannot be used.
        """
        try:
            worker, ready = self._new(None)
        except ConfigurationError:
            raise
        except Exception as error:
            raise refusal(self._organ, str(error)) from None
        self._idle.append(worker)
        return Handler(self.call, ready.is_async, ready.wants_context, self._organ.batch, self)

    def expand(self, more: int) -> None:
        """Allow ``more`` processes at once."""
        with self._changed:
            self._limit += more
            self._changed.notify_all()

    def shrink(self, less: int) -> None:
        """Allow ``less`` fewer processes at once. If none is allowed, the pool is closed."""
        with self._changed:
            self._limit -= less
            if self._limit <= 0:
                self._closed.set()
            while self._idle and self._count() > self._limit:
                _end(self._idle.pop(0))
            self._changed.notify_all()

    def call(self, call: ProcessCall) -> HandlerResults:
        """Call the handler in a process, and wait for the results of its tasks.

        Returns:
            The results of the tasks; empty if a batch failed as a whole, or the tasks are given up.

        Raises:
            WorkerProcessDied: The process ended during the call.
            StartFailed: No process could be started.
        """
        while True:
            worker = self._acquire(call.key, call.unwanted)
            if worker is None:
                return ()
            fresh = worker.fresh
            try:
                try:
                    worker.send(call)
                except OSError:
                    if fresh:
                        raise WorkerProcessDied(worker.how_it_died()) from None
                    self._drop(call.key, worker)
                    continue
                call.on_begin()
                results = worker.receive(lambda report: call.contexts[report.position].relay(report))
            except BaseException:
                self._drop(call.key, worker)
                raise
            self._release(call.key, worker)
            return results

    def answer(self, key: Any, claim: int, answer: Acknowledgement) -> None:
        """Pass the answer to what a task has reported to the process of its call, if the call has one."""
        with self._changed:
            worker = self._busy.get(key)
        if worker is not None:
            worker.answer(claim, answer)

    def kill(self, key: Any) -> None:
        """Kill the process of a call, if the call has one. Then `call` returns or raises."""
        with self._changed:
            if worker := self._busy.pop(key, None):
                worker.kill()
            self._changed.notify_all()

    def status(self) -> list[dict[str, Any]]:
        """Return the processes, as plain data."""
        with self._changed:
            return [
                {"pid": worker.pid, "busy": busy}
                for workers, busy in ((self._busy.values(), True), (self._idle, False))
                for worker in workers
            ]

    def _count(self) -> int:
        return len(self._idle) + len(self._busy) + self._starting

    def _acquire(self, key: Any, unwanted: Callable[[], bool]) -> WorkerProcess | None:
        """Return a process that is free for the call; `None` means that the call is given up.

        It need not be the process that was started for the call: that start may take longer than another
        call, and longer than this one is wanted.
        """
        start: ProcessStart | None = None
        with self._changed:
            while not unwanted():
                while self._idle:
                    worker = self._idle.pop()
                    if worker.alive:
                        self._busy[key] = worker
                        return worker
                    _end(worker)
                if start is not None and start.error is not None:
                    raise StartFailed(start.error)
                if (start is None or start.ended) and self._count() < self._limit:
                    start = ProcessStart()
                    threading.Thread(
                        target=self._start, args=(start,), name=f"start-{self._organ.id}", daemon=True
                    ).start()
                    self._starting += 1
                self._changed.wait()
        return None

    def _start(self, start: ProcessStart) -> None:
        if self._failed_starts:
            self._closed.wait(min(0.1 * 2**self._failed_starts, LONGEST_PAUSE_S))
        error: Exception | None = None
        worker: WorkerProcess | None = None
        try:
            worker, _ = self._new(START_S)
        except Exception as problem:
            error = problem
        with self._changed:
            self._starting -= 1
            start.ended = True
            start.error = error
            if worker is None:
                self._failed_starts += 1
                logger.error("organ %s: a process does not start: %s", self._organ.id, error)
                if self._failed_starts >= FAILED_STARTS:
                    self.problem = str(error)
            else:
                self._failed_starts = 0
                self.problem = None
                self._keep(worker)
            self._changed.notify_all()

    def _new(self, within_s: float | None) -> tuple[WorkerProcess, ReadyMessage]:
        worker = WorkerProcess(self._organ)
        try:
            return worker, worker.start(within_s)
        except BaseException:
            _end(worker)
            raise

    def _release(self, key: Any, worker: WorkerProcess) -> None:
        with self._changed:
            if self._busy.pop(key, None) is worker:
                self._keep(worker)
                self._changed.notify_all()
                return
        _end(worker)  # killed when it had just answered

    def _keep(self, worker: WorkerProcess) -> None:
        if self._count() < self._limit:
            self._idle.append(worker)
        else:
            _end(worker)

    def _drop(self, key: Any, worker: WorkerProcess) -> None:
        with self._changed:
            self._busy.pop(key, None)
            self._changed.notify_all()
        worker.kill()
        worker.end()


def _end(worker: WorkerProcess) -> None:
    threading.Thread(target=worker.end, name="end-worker", daemon=True).start()
