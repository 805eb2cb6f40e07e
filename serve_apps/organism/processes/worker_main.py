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
from concurrent.futures import Future
from contextvars import copy_context
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from organism_flows.blocks import tracing
from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.json_text import from_json
from organism_flows.blocks.task_report import Acknowledgement, Checkpoint, EndedWait, TaskReport
from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.handler_api.context import Context
from organism_flows.serve_apps.organism.handler_api.handler import Handler
from organism_flows.serve_apps.organism.handler_api.handler_call import HandlerCall
from organism_flows.serve_apps.organism.handler_api.leaving import Leaving
from organism_flows.serve_apps.organism.handler_api.loading import load_handler
from organism_flows.serve_apps.organism.handler_api.results import HandlerResults

if TYPE_CHECKING:
    import asyncio

REPORT_S = 0.05
"""Shortest time between two reports of a call that nothing waits for, in seconds."""


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
    checkpoints: list[Checkpoint | None]
    """Where earlier attempts got to."""
    waits: dict[int, EndedWait]
    """How the newest waits of the tasks have ended, by claim."""
    task_key: str | None
    """Key of the tasks, if their type runs those of one key together."""
    traceparent: str | None = None
    """Trace context of the call; `None` means that it is not traced."""


class ReportsMessage(NamedTuple):
    """Message to the replica: what the tasks of the call with this number have reported."""

    number: int
    reports: list[TaskReport]


class AnswerMessage(NamedTuple):
    """Message from the replica: the answer to what a task has reported."""

    claim: int
    answer: Acknowledgement


class DoneMessage(NamedTuple):
    """Message to the replica: the results of the call with this number."""

    number: int
    results: HandlerResults


class MessageSender:
    """Sends messages to the replica, from any thread.

    Reports that come soon after others wait, and are sent together.

    Args:
        connection: The connection to the replica.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._number = 0
        """Number of the call that the reports are of."""
        self._reports: dict[int, TaskReport] = {}
        """Reports that are not sent yet, by position."""
        self._timer: threading.Timer | None = None
        self._sent_at = 0.0

    def send(self, message: ReadyMessage | RefusedMessage | DoneMessage) -> None:
        """Send ``message``, after the reports that are not sent yet."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._send_reports()
            self._connection.send(message)

    def report(self, number: int, report: TaskReport) -> None:
        """Send a report of the call with this number, now or when `REPORT_S` is over."""
        with self._lock:
            wait_s = 0.0 if report.awaited else self._sent_at + REPORT_S - time.monotonic()
            self._number = number
            self._reports[report.position] = report.after(self._reports.get(report.position))
            if wait_s <= 0:
                self._send_reports()
            elif self._timer is None:
                self._timer = threading.Timer(wait_s, self._send_late)
                self._timer.daemon = True
                self._timer.start()

    def _send_late(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():
                self._timer = None
                self._send_reports()

    def _send_reports(self) -> None:
        if self._reports:
            reports, self._reports = list(self._reports.values()), {}
            self._connection.send(ReportsMessage(self._number, reports))
            self._sent_at = time.monotonic()


class WorkerContext(Context):
    """A context in a worker process. It never says that it is cancelled: the process is killed instead."""

    __slots__ = ("_listen",)

    def __init__(
        self,
        task: dict[str, Any],
        remaining_s: float,
        report: Callable[[TaskReport], None],
        checkpoint: Checkpoint | None,
        wait: EndedWait | None,
        key: str | None,
        listen: Callable[[], None],
    ) -> None:
        super().__init__(task, time.monotonic(), remaining_s, lambda: False, report, checkpoint, wait, key)
        self._listen = listen

    @property
    def must_leave(self) -> Leaving:
        self._listen()
        return super().must_leave

    def awaited(self, step: int) -> Future[None]:
        self._listen()
        return super().awaited(step)


class Inbox:
    """The messages of the replica.

    While a handler runs, nothing is read before it waits for an answer. From then on a thread reads, which
    costs each further call a turn of the threads.

    Args:
        connection: The connection to the replica.
        answer: Called with each answer, in the thread.
    """

    def __init__(self, connection: Connection, answer: Callable[[AnswerMessage], None]) -> None:
        self._connection = connection
        self._answer = answer
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None

    def next(self) -> InvokeMessage:
        """Wait for the next call.

        Raises:
            EOFError: The connection is closed.
        """
        if self._reader is None:
            message = self._connection.recv()
            while isinstance(message, AnswerMessage):  # its handler has ended
                message = self._connection.recv()
        else:
            message = self._calls.get()
        if message is None:
            raise EOFError
        return cast("InvokeMessage", message)

    def listen(self) -> None:
        """Have answers read from now on. Call it only while a handler runs."""
        with self._lock:
            if self._reader is None:
                self._reader = threading.Thread(target=self._read, name="inbox", daemon=True)
                self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                message = None
            if isinstance(message, AnswerMessage):
                self._answer(message)
                continue
            self._calls.put(message)
            if message is None:
                return


class Worker:
    """Calls one handler when the replica asks for it.

    Args:
        handler: The handler, loaded by `load_handler`.
        connection: The connection to the replica.
        sender: Sends messages over it.
    """

    def __init__(self, handler: Handler, connection: Connection, sender: MessageSender) -> None:
        self._handler = handler
        self._sender = sender
        self.inbox = Inbox(connection, self._answer)
        self._contexts: list[Context] = []
        """Contexts of the call that runs."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def execute(self, message: InvokeMessage) -> None:
        """Call the handler, and send the results of the tasks. Never raise what the handler raises."""
        with tracing.current(message.traceparent), HandlerCall(len(message.tasks)) as call:
            # A context of its own: what a call leaves in a context variable must not reach the next call.
            call.results = copy_context().run(self._call, message)
        results = call.results
        if self._contexts:
            results = [
                result._replace(spent=context.units, log=context.logged)
                for result, context in zip(results, self._contexts, strict=True)
            ]
        for context in self._contexts:
            context.end()
        self._contexts = []
        if message.traceparent is not None:
            # This process may be killed as soon as the results are out.
            tracing.flush()
        self._sender.send(DoneMessage(message.number, results))

    def _call(self, message: InvokeMessage) -> HandlerResults:
        tasks = [{**task, "params": from_json(task["params"])} for task in message.tasks]

        if self._handler.wants_context:
            self._contexts = [self._context(message, position, task) for position, task in enumerate(tasks)]
        value = self._handler.call_with(tasks, self._contexts)
        if inspect.isawaitable(value):
            value = self._await(value)
        return self._handler.results(value, len(tasks), message.limit_bytes)

    def _context(self, message: InvokeMessage, position: int, task: dict[str, Any]) -> Context:
        def report(one: TaskReport) -> None:
            self._sender.report(message.number, one._replace(position=position))

        checkpoint, wait = message.checkpoints[position], message.waits.get(task["claim"])
        key, listen = message.task_key, self.inbox.listen
        return WorkerContext(task, message.remaining_s, report, checkpoint, wait, key, listen)

    def _answer(self, message: AnswerMessage) -> None:
        for context in self._contexts:
            if context.claim == message.claim:
                context.acknowledge(message.answer)

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
        worker = Worker(handler, connection, sender)
        while True:
            worker.execute(worker.inbox.next())
    except (EOFError, ConnectionError):
        pass
