"""The worker process, in which a handler runs one task, or one batch of tasks, at a time.

`worker_process` starts it below a `subreaper` and ends it by a kill, so the handler may compute, crash or
hang. It imports neither Ray nor Prefect nor the queue. It is ready 0.2 s after its start, half of which is
pydantic. The imports of the handler come on top.
"""

from __future__ import annotations

import faulthandler
import inspect
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from organism_flows.blocks import tracing
from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.json_text import from_json
from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.handler_api.context import Context
from organism_flows.serve_apps.organism.handler_api.handler import Handler
from organism_flows.serve_apps.organism.handler_api.handler_call import HandlerCall
from organism_flows.serve_apps.organism.handler_api.loading import load_handler
from organism_flows.serve_apps.organism.handler_api.results import HandlerResults

if TYPE_CHECKING:
    import asyncio

PROGRESS_S = 0.25
"""Shortest time between two reports of progress, in seconds."""


class ReadyMessage(NamedTuple):
    """Message to the replica: the handler is loaded."""

    pid: int
    is_async: bool
    wants_context: bool


class RefusedMessage(NamedTuple):
    """Message to the replica: the handler cannot be used."""

    what: str
    next_step: str


class InvokeMessage(NamedTuple):
    """Message from the replica: call the handler."""

    number: int
    tasks: list[dict[str, Any]]
    """The tasks, with their params as JSON text."""
    remaining_s: float
    limit_bytes: int
    """Longest result, in bytes of JSON text."""
    traceparent: str | None = None
    """Trace context of the call; `None` means that it is not traced."""


class ProgressMessage(NamedTuple):
    """Message to the replica: the progress of the call with this number."""

    number: int
    fraction: float | None
    note: str


class DoneMessage(NamedTuple):
    """Message to the replica: the results of the call with this number."""

    number: int
    results: HandlerResults


class MessageSender:
    """Sends messages to the replica, from any thread.

    Of progress it sends only a few messages a second. Progress that is unsent when its call ends is dropped.

    Args:
        connection: The connection to the replica.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._number = 0
        self._latest: ProgressMessage | None = None
        self._timer: threading.Timer | None = None
        self._sent_at = 0.0

    def send(self, message: ReadyMessage | RefusedMessage | DoneMessage) -> None:
        """Send ``message``, and drop progress that is not sent yet."""
        with self._lock:
            self._latest = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._connection.send(message)

    def progress(self, progress: ProgressMessage) -> None:
        """Send ``progress`` now, or when `PROGRESS_S` is over, unless there is newer progress by then."""
        with self._lock:
            wait_s = self._sent_at + PROGRESS_S - time.monotonic()
            self._latest = progress
            if wait_s <= 0:
                self._send_latest()
            elif self._timer is None:
                self._timer = threading.Timer(wait_s, self._send_late)
                self._timer.daemon = True
                self._timer.start()

    def _send_late(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():
                self._timer = None
                self._send_latest()

    def _send_latest(self) -> None:
        if self._latest is not None:
            self._connection.send(self._latest)
            self._latest = None
            self._sent_at = time.monotonic()


class WorkerContext(Context):
    """A context that reports progress to the replica."""

    __slots__ = ("_report",)

    def __init__(
        self, task: dict[str, Any], remaining_s: float, report: Callable[[float | None, str], None]
    ) -> None:
        # It never says that it is cancelled: the process is killed instead.
        super().__init__(task, time.monotonic(), remaining_s, lambda: False)
        self._report = report

    def progress(self, fraction: float | None = None, note: str = "") -> None:
        super().progress(None if fraction is None else float(fraction), str(note))
        self._report(*self.progressed)


class Worker:
    """Calls one handler when the replica asks for it.

    Args:
        handler: The handler, loaded by `load_handler`.
        sender: Sends the answers to the replica.
    """

    def __init__(self, handler: Handler, sender: MessageSender) -> None:
        self._handler = handler
        self._sender = sender
        self._loop: asyncio.AbstractEventLoop | None = None

    def execute(self, message: InvokeMessage) -> None:
        """Call the handler, and send the results of the tasks. Never raise what the handler raises."""
        with tracing.current(message.traceparent), HandlerCall(len(message.tasks)) as call:
            # A context of its own: what a call leaves in a context variable must not reach the next call.
            call.results = copy_context().run(self._call, message)
        if message.traceparent is not None:
            # This process may be killed as soon as the results are out.
            tracing.flush()
        self._sender.send(DoneMessage(message.number, call.results))

    def _call(self, message: InvokeMessage) -> HandlerResults:
        tasks = [{**task, "params": from_json(task["params"])} for task in message.tasks]

        def report(fraction: float | None, note: str) -> None:
            self._sender.progress(ProgressMessage(message.number, fraction, note))

        context = WorkerContext(tasks[0], message.remaining_s, report)
        with HandlerCall(len(tasks)) as call:
            value = self._handler.call(*self._handler.arguments(tasks, context))
            if inspect.isawaitable(value):
                value = self._await(value)
            call.results = self._handler.results(value, len(tasks), message.limit_bytes)
        if log := context.logged:
            return [result._replace(log=log) for result in call.results]
        return call.results

    def _await(self, awaitable: Awaitable[Any]) -> Any:
        """Wait on the single event loop of the process: handlers keep their connections on it."""
        import asyncio

        returned: list[Any] = []
        raised: list[BaseException] = []

        async def wait() -> None:
            # Results are kept here: SystemExit would leave the loop in another way, and a handler that
            # cancels its own task still returns something.
            try:
                returned.append(await awaitable)
            except BaseException as error:
                raised.append(error)

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(wait())
        try:
            self._loop.run_until_complete(task)
        except BaseException:
            if not (returned or raised):  # something else on the loop raised it
                task.cancel()
                raise
        if raised:
            raise raised[0]
        return returned[0]


def serve(connection_fd: int) -> None:
    """Load the handler of the organ that the replica sends first; call it until the connection closes."""
    # The stack handles Ctrl-C. Not SIG_IGN: programs that the handler starts would inherit that.
    signal.signal(signal.SIGINT, lambda *_: None)
    faulthandler.enable()
    log = logging.getLogger("ray.serve.organism")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    connection = Connection(connection_fd)
    sender = MessageSender(connection)
    try:
        organ = OrganConfig.model_validate_json(connection.recv())
        try:
            handler = load_handler(organ)
        except ConfigurationError as error:
            sender.send(RefusedMessage(error.what, error.next_step))
            return
        sender.send(ReadyMessage(os.getpid(), handler.is_async, handler.wants_context))
        worker = Worker(handler, sender)
        while True:
            worker.execute(connection.recv())
    except (EOFError, ConnectionError):
        pass
