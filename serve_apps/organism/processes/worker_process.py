"""The replica's side of one worker process: starts it, gives it tasks call by call, and kills it.

Not `multiprocessing`: the main module of a replica is Ray's, and a spawned process would import it. A fork is
no way out, because gRPC's threads do not survive it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.task_report import Acknowledgement, TaskReport
from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.handler_api.handler import ProcessCall
from organism_flows.serve_apps.organism.handler_api.results import HandlerResults
from organism_flows.serve_apps.organism.processes.worker_main import (
    AnswerMessage,
    DoneMessage,
    InvokeMessage,
    ReadyMessage,
    RefusedMessage,
    ReportsMessage,
)

logger = logging.getLogger("ray.serve.organism")

END_S = 5.0
"""Longest time an idle process may take to end by itself, in seconds."""
DEATH_S = 1.0
"""Longest time a process may live after it closed its connection, in seconds."""
ALIVE_CHECK_S = 1.0
"""Pause between two checks whether a silent process lives, in seconds. When it dies, a program that it
started may hold its connection open."""

# The process gets the replica's whole import path: `python -m` would search only the current folder.
_MAIN = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from organism_flows.serve_apps.organism.processes.subreaper import main; main()"
)


class WorkerProcessDied(Exception):
    """Error: the process of a handler ended during a call. The message says how."""


class WorkerProcess:
    """One worker process. Use it in one thread at a time, except for `kill` and `alive`.

    Args:
        organ: Configuration of the handler's organ.

    Raises:
        OSError: The system refuses another process.
    """

    def __init__(self, organ: OrganConfig) -> None:
        self._number = 0
        self._worker_pid = 0
        self._closing = threading.Lock()
        self._sending = threading.Lock()
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self._connection = Connection(ours.detach())
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-u", "-c", _MAIN),
                    *(str(theirs.fileno()), str(lifeline), organ.id),
                    *(str(folder) or os.getcwd() for folder in sys.path),
                ],
                pass_fds=(theirs.fileno(), lifeline),
                stdin=subprocess.DEVNULL,
                # A group of its own: the stack handles Ctrl-C.
                process_group=0,
            )
        except BaseException:
            self._connection.close()
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        self._poll = select.poll()
        self._poll.register(self._connection.fileno(), select.POLLIN)
        self._hung_up = select.poll()
        self._hung_up.register(self._connection.fileno(), 0)
        self._organ = organ

    @property
    def pid(self) -> int:
        """Return the pid of the process that runs the handler; until that is ready, of the one started."""
        return self._worker_pid or self._process.pid

    @property
    def alive(self) -> bool:
        # The connection of a dead worker closes before its subreaper has killed the rest and exits too.
        return not self._hung_up.poll(0) and self._process.poll() is None

    @property
    def fresh(self) -> bool:
        """Return True if it has not received a task yet."""
        return not self._number

    def start(self, within_s: float | None) -> ReadyMessage:
        """Wait until it has loaded its handler.

        Raises:
            ConfigurationError: The handler cannot be used.
            WorkerProcessDied: It ended meanwhile, or took longer than ``within_s`` seconds.
        """
        try:
            self._connection.send(self._organ.model_dump_json())
        except OSError:
            raise WorkerProcessDied(self.how_it_died()) from None
        match self._receive(within_s):
            case ReadyMessage() as ready:
                self._worker_pid = ready.pid
                return ready
            case RefusedMessage(what, next_step):
                raise ConfigurationError(what, next_step)
        raise WorkerProcessDied(self._bad_message())

    def send(self, call: ProcessCall) -> None:
        """Send the tasks of ``call``, for the handler to be called with.

        Raises:
            OSError: The process is dead; the handler was not called.
        """
        self._number += 1
        message = InvokeMessage(
            self._number,
            call.tasks,
            call.timeout_s,
            call.limit_bytes,
            call.checkpoints,
            call.waits,
            call.task_key,
            call.traceparent,
        )
        with self._sending:
            self._connection.send(message)

    def answer(self, claim: int, answer: Acknowledgement) -> None:
        """Send the answer to what a task has reported. Safe in any thread."""
        with self._sending, suppress(OSError):  # a process that is dead waits for nothing
            self._connection.send(AnswerMessage(claim, answer))

    def receive(self, report: Callable[[TaskReport], None]) -> HandlerResults:
        """Wait for the results of the tasks that were sent, and return them.

        Args:
            report: Called with what the tasks report meanwhile.

        Returns:
            The results; empty if a batch failed as a whole.

        Raises:
            WorkerProcessDied: The process ended meanwhile.
        """
        while True:
            match self._receive(None):
                case DoneMessage(self._number, results):
                    return results
                case ReportsMessage(number, reports):
                    if number == self._number:
                        for one in reports:
                            report(one)
                case _:
                    raise WorkerProcessDied(self._bad_message())

    def _receive(self, within_s: float | None) -> Any:
        until = time.monotonic() + within_s if within_s is not None else None
        while not self._poll.poll(ALIVE_CHECK_S * 1000):
            if not self.alive:
                raise WorkerProcessDied(self.how_it_died())
            if until is not None and time.monotonic() > until:
                self.kill()
                raise WorkerProcessDied(f"the worker process was not ready after {within_s:g} s")
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            raise WorkerProcessDied(self.how_it_died()) from None
        except Exception:
            raise WorkerProcessDied(self._bad_message()) from None

    def _bad_message(self) -> str:
        self.kill()
        return "the worker process sent something that is not a message"

    def how_it_died(self) -> str:
        """Return one line about how the process died; kill it if it still lives after `DEATH_S`."""
        try:
            code = self._process.wait(DEATH_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return "the worker process closed its connection"
        if code >= 0:
            return f"the worker process died: exited with code {code}"
        try:
            return f"the worker process died: {signal.Signals(-code).name}"
        except ValueError:
            return f"the worker process died: signal {-code}"

    def kill(self) -> None:
        """Make its subreaper kill it and all that it has started, at once. Safe in any thread."""
        with self._closing:
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1

    def end(self) -> None:
        """Let it end by itself, and kill it if it does not. Nothing may use it afterwards."""
        self._connection.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            logger.warning("organ %s: an idle process did not end", self._organ.id)
        self.kill()
        self._process.wait()
