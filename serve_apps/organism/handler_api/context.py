"""The context of a handler call: what a handler can read about the call, and report of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, NamedTuple

from organism_flows.blocks.errors import MustLeave, StaleClaim
from organism_flows.blocks.json_text import NotJson, from_json, to_json
from organism_flows.blocks.task_report import Acknowledgement, Checkpoint, EndedWait, Progress, TaskReport
from organism_flows.serve_apps.organism.handler_api.emitted_chunks import CHUNK_LIMIT_BYTES, EmittedChunks
from organism_flows.serve_apps.organism.handler_api.leaving import Leaving
from organism_flows.serve_apps.organism.handler_api.log_lines import LogLines, TaskLogger

logger = logging.getLogger("ray.serve.organism.handler")

STATE_LIMIT_BYTES = 256_000
"""Largest state of a checkpoint, in bytes of JSON text."""
NO_PROGRESS = Progress(None, "")
NOTE_LIMIT = 200
"""Most characters of a note on progress."""


class Event(NamedTuple):
    """What a task has waited for."""

    name: str
    payload: Any
    """What was sent with it. `None` if it did not come."""
    timed_out: bool
    """True if it did not come in time."""


class Saving:
    """A checkpoint on its way to the database. You need not wait for it.

    Args:
        context: The context of the task.
        step: Step of the checkpoint.
    """

    __slots__ = ("_context", "_step")

    def __init__(self, context: Context, step: int) -> None:
        self._context = context
        self._step = step

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until the checkpoint is durable, in an ``async def``.

        Raises:
            StaleClaim: It is not, because the task is no longer this attempt's.
            MustLeave: The replica or the lane is taken down. Let it pass: the state is saved, and the next
                attempt continues with it elsewhere.
            OSError: It is not, because the database refused it.
        """
        import asyncio  # worker processes of plain functions start faster without it

        return asyncio.wrap_future(self._context.awaited(self._step)).__await__()

    def wait(self) -> None:
        """Wait until the checkpoint is durable, in a plain function. Raise what ``await`` raises."""
        self._context.awaited(self._step).result()


class Context:
    """The context that a handler with a parameter called ``context`` gets. It is safe in any thread.

    Args:
        task: The task that the handler gets.
        started: When the handler was called, by `time.monotonic`.
        timeout_s: Seconds the handler may take from then on.
        cancelled: Returns True if the task's result is no longer awaited.
        report: Called with what the handler reports.
        checkpoint: Where earlier attempts got to.
        wait: How the newest wait of the task has ended.
        key: Key of the task.
    """

    __slots__ = (
        "_cancelled",
        "_checkpoint",
        "_durable",
        "_emitted",
        "_ended",
        "_last",
        "_leaving",
        "_lock",
        "_log",
        "_report",
        "_step",
        "_wait",
        "_waiting",
        "attempt",
        "claim",
        "deadline",
        "key",
        "progressed",
        "task_id",
        "units",
    )

    def __init__(
        self,
        task: dict[str, Any],
        started: float,
        timeout_s: float,
        cancelled: Callable[[], bool],
        report: Callable[[TaskReport], None],
        checkpoint: Checkpoint | None = None,
        wait: EndedWait | None = None,
        key: str | None = None,
    ) -> None:
        self.task_id: str = task["task_id"]
        self.claim: int = task["claim"]
        """Fencing token. It only ever grows, over all tasks."""
        self.attempt: int = task["attempt"]
        """Number of the attempt, from 1."""
        self.key = key
        """Key of the task, where the policy of its type has ``affinity_s``; else `None`."""
        self.deadline = started + timeout_s
        """By `time.monotonic`. After it the task is reported as timed out, whatever the handler returns."""
        self.progressed = NO_PROGRESS
        self.units: float | None = None
        """What the handler has spent so far. `None` means that it said nothing."""
        self._cancelled = cancelled
        self._report = report
        self._checkpoint = checkpoint
        self._wait = wait
        self._step = 0
        self._last: str | None = None
        """JSON text of the newest state of this attempt."""
        self._emitted = EmittedChunks()
        self._lock = threading.Lock()
        self._ended = False
        self._leaving: Leaving | None = None
        """Made when it is needed: its event takes longer to make than all the rest."""
        self._durable = 0
        """Checkpoints up to this step are known to be durable."""
        self._waiting: list[tuple[int, Future[None]]] = []
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
    def must_leave(self) -> Leaving:
        """Return whether the handler must leave, because its replica or its lane is taken down.

        It is true from then on, and can be awaited. Until its ``deadline`` the handler may go on; then it is
        stopped. Save a checkpoint and raise `MustLeave`: the task continues on another replica, and the
        attempt is not charged.
        """
        with self._lock:
            if self._leaving is None:
                self._leaving = Leaving()
            return self._leaving

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

    @property
    def restored(self) -> Any:
        """Return the newest state that an earlier attempt saved with `checkpoint`; `None` if there is none.

        Read it before the first checkpoint. An attempt that never reads it counts as one that begins from
        the start.
        """
        if self._checkpoint is None:
            return None
        with self._lock:
            self._step = max(self._step, self._checkpoint.step)
        return from_json(self._checkpoint.state)

    @property
    def event(self) -> Event | None:
        """Return the event that the task has waited for; `None` if it has not waited yet.

        Each attempt after the wait gets it, until the next wait has ended. See `WaitFor`.
        """
        if self._wait is None:
            return None
        payload = self._wait.payload
        return Event(self._wait.event, None if payload is None else from_json(payload), self._wait.timed_out)

    def checkpoint(self, state: Any) -> Saving:
        """Save ``state``. If this attempt does not end the task, the next one gets it as `restored`.

        Only the newest state is kept. Call it as often as you like: what is saved within about 50 ms is
        written together. It returns at once; ``await`` what it returns, or call its ``wait()``, to continue
        only when the state is durable.

        Args:
            state: Any JSON value but `None`, at most `STATE_LIMIT_BYTES` long as JSON text. Keep what is
                larger in a store of your own, and save a reference to it.

        Raises:
            NotJson: The state cannot be stored. The message names the place and the reason.
            StaleClaim: The task is no longer this attempt's. Nothing was saved.
        """
        if state is None:
            raise NotJson("state is None, which means that there is no checkpoint")
        text = _encoded(state, "state", STATE_LIMIT_BYTES)
        with self._lock:
            self._refuse_if_ended()
            # A state that is the same again is no step ahead.
            if text != self._last and not self._is_restored(text):
                self._step += 1
            self._last = text
            self._report(TaskReport(step=self._step, state=text))
            return Saving(self, self._step)

    def emit(self, chunk: Any) -> None:
        """Add ``chunk`` to the stream of the task, for whoever reads it while the task runs.

        Chunks are kept in their order, and with the task. It returns at once; what is emitted within about
        50 ms is written together. A checkpoint that is durable makes the chunks before it durable too. The
        stream of a later attempt begins again and takes the place of this one.

        Args:
            chunk: Any JSON value, at most `CHUNK_LIMIT_BYTES` long as JSON text.

        Raises:
            NotJson: The chunk cannot be stored. The message names the place and the reason.
            StreamFull: There are `CHUNKS_LIMIT` chunks already, or `CHUNKS_LIMIT_BYTES` of them. It is not
                added.
            StaleClaim: The task is no longer this attempt's. Nothing was added.
        """
        text = _encoded(chunk, "chunk", CHUNK_LIMIT_BYTES)
        with self._lock:
            self._refuse_if_ended()
            self._report(TaskReport(step=self._step, chunks=self._emitted.add(text)))

    def progress(self, fraction: float | None = None, note: str = "") -> None:
        """Report how far the task is, in numbers or in words. Whoever waits for the task sees it.

        It never raises: a task does not fail for what it says of itself.

        Args:
            fraction: Done share of the task, from 0 to 1; `None` means unknown.
            note: Progress in words; at most `NOTE_LIMIT` characters are kept.
        """
        progress = Progress(_share(fraction), _storable(str(note))[:NOTE_LIMIT])
        with self._lock:
            self.progressed = progress
            if not (self._ended or self._cancelled()):
                self._report(TaskReport(step=self._step, progress=progress))

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

    # Called by what runs the handler

    def awaited(self, step: int) -> Future[None]:
        """Return a future that is done when the checkpoint with this step is durable."""
        future: Future[None] = Future()
        # From here on it cannot be cancelled: a handler that is cancelled while it waits leaves it behind.
        future.set_running_or_notify_cancel()
        with self._lock:
            self._refuse_if_ended()
            if self._leaving:
                raise self._must_leave()
            # A task that comes past the queue has no row: there is nothing to wait for.
            if step <= self._durable or not self.claim:
                future.set_result(None)
            else:
                self._waiting.append((step, future))
                self._report(TaskReport(step=step, awaited=True))
        return future

    def acknowledge(self, answer: Acknowledgement) -> None:
        """Let the handler continue if it waits for this, raise its problem there, or have it leave."""
        if answer.leave_within_s is not None:
            self._leave(answer.leave_within_s)
            return
        with self._lock:
            done = [future for step, future in self._waiting if step <= answer.step or answer.problem]
            self._waiting = [one for one in self._waiting if one[1] not in done]
            if answer.problem is None:
                self._durable = max(self._durable, answer.step)
            self._ended |= answer.stale
        for future in done:
            if answer.problem is None:
                future.set_result(None)
            else:
                future.set_exception((StaleClaim if answer.stale else OSError)(answer.problem))

    def relay(self, report: TaskReport) -> None:
        """Report what the handler has reported in another process."""
        with self._lock:
            if report.progress is not None:
                self.progressed = report.progress
            if not (self._ended or self._cancelled()):
                self._report(report)

    def end(self) -> None:
        """Refuse every further report: the task is no longer this call's."""
        with self._lock:
            self._ended = True
            waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            future.set_exception(self._stale())

    def _leave(self, within_s: float) -> None:
        leaving = self.must_leave
        if leaving:
            return
        leaving.begin(within_s)
        with self._lock:
            waiting, self._waiting = self._waiting, []
        # A lane's answers do not reach a replica that is taken down. What was reported leaves with the stream
        # all the same, before the outcome.
        for _, future in waiting:
            future.set_exception(self._must_leave())

    def _must_leave(self) -> MustLeave:
        return MustLeave(f"task {self.task_id}: its replica or lane is taken down; it continues on another")

    def _refuse_if_ended(self) -> None:
        if self._ended or self._cancelled():
            raise self._stale()

    def _stale(self) -> StaleClaim:
        return StaleClaim(f"task {self.task_id}: claim {self.claim} has ended; nothing is saved under it")

    def _is_restored(self, text: str) -> bool:
        """Return True if the first state of this attempt is the one that it has begun with."""
        if self._last is not None or self._checkpoint is None or self._step < self._checkpoint.step:
            return False
        return bool(from_json(text) == from_json(self._checkpoint.state))


def _encoded(value: Any, name: str, limit_bytes: int) -> str:
    """Return ``value`` as JSON text. The error calls it by ``name``."""
    try:
        return to_json(value, limit_bytes=limit_bytes)
    except NotJson as error:
        raise type(error)(str(error).replace("$", name, 1)) from None


def _share(fraction: Any) -> float | None:
    """Return ``fraction`` as a number from 0 to 1; `None` if it is no number."""
    try:
        share = float(fraction)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(share, 0.0), 1.0) if share == share else None


def _storable(text: str) -> str:
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
