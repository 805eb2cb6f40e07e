"""Every error that a user can meet. Each is one line: what happened, with which value, and what to do next.

- `OrganismError`

  - `ConfigurationError`: a setting, file or parameter is wrong

    - `TaskNotFound`, `AmbiguousTask`, `AlreadySubmitted`, `RejectedRows`
    - ``PrivilegeMissing`` in `blocks.queue.db.roles`, which is an error of asyncpg as well

  - `QueueUnavailable`, `LaneLost`, `SchemaMismatch`: Postgres
  - `OrganismUnavailable`, `OrganismUnknown`, `ReplicaLost`: the organism
  - `PrefectUnavailable`: the Prefect server
  - `GatewayError`, `GatewayUnavailable`, `TaskEnded`: raised by the clients of the gateway
  - `StackError`, `RunStopped`: raised by the commands

- `PermanentError`, `RetryAfter` and `MustLeave`, which handlers raise, and `StaleClaim`, which they may
  catch. They are no `OrganismError`: their text is stored as it is.

`deployments.cli.exit_codes` has the exit code that each leads to.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID


class OrganismError(Exception):
    """Base of every expected failure.

    Args:
        what: One line: what happened, with the value that caused it (never a secret).
        next_step: One line: what the reader should do now.
    """

    def __init__(self, what: str, next_step: str = "") -> None:
        self.what = " ".join(what.split())
        self.next_step = " ".join(next_step.split())
        super().__init__(f"{self.what} → {self.next_step}" if self.next_step else self.what)

    def __reduce__(self) -> tuple[type[OrganismError], tuple[str, str]]:
        # Exceptions cross Ray process borders; the default pickling would pass the joined text as `what`.
        return type(self), (self.what, self.next_step)

    def _render_traceback_(self) -> list[str]:
        # IPython shows this, in a notebook and in a terminal.
        return [f"{type(self).__name__}: {self}"]


class ConfigurationError(OrganismError):
    """A setting, file or parameter is wrong; retrying without a change cannot help."""


class TaskNotFound(ConfigurationError):
    """No task has this id, or an id that begins with it."""


class AmbiguousTask(ConfigurationError):
    """Several tasks have ids that begin with the given text.

    Args:
        candidates: Some of these ids.
    """

    def __init__(self, what: str, next_step: str = "", candidates: tuple[str, ...] = ()) -> None:
        self.candidates = candidates
        super().__init__(what, next_step)

    def __reduce__(self) -> tuple[type[OrganismError], tuple[str, str, tuple[str, ...]]]:  # type: ignore[override]
        return type(self), (self.what, self.next_step, self.candidates)


class AlreadySubmitted(ConfigurationError):
    """A task with this id, or an unfinished task with this dedup key, exists already."""


class RejectedRows(ConfigurationError):
    """Nothing was loaded, because lines of a file are no tasks."""

    first: Sequence[str] = ()
    """The first bad lines, in order: the place of each, and what is wrong."""


class QueueUnavailable(OrganismError):
    """Postgres cannot be reached or refuses the connection."""


class LaneLost(QueueUnavailable):
    """The lease could not be kept: another lane may hold the tasks, and this lane must end."""


class SchemaMismatch(OrganismError):
    """The database does not hold the tables that this version expects."""


class OrganismUnavailable(OrganismError):
    """No replica took the call. Nothing of it ran, so no attempt may be charged for it."""


class OrganismUnknown(OrganismUnavailable):
    """Neither the settings nor the state of the stack say where the organism is."""


class ReplicaLost(OrganismError):
    """A replica accepted the call, and then died or fell silent. What it had not reported is unknown."""


class PrefectUnavailable(OrganismError):
    """The Prefect server does not answer, or refuses."""


class GatewayProblem(Protocol):
    """What a `GatewayError` knows: a ``Problem`` of `blocks.client.messages`."""

    type: str
    title: str
    status: int
    detail: str
    next_step: str | None
    errors: list[Any]
    candidates: list[str]


class EndedTask(Protocol):
    """What a `TaskEnded` knows: a ``WaitResult`` of `blocks.client.messages`."""

    id: UUID
    type: str
    error: str | None
    attempts: int

    @property
    def status(self) -> str: ...


class GatewayError(OrganismError):
    """The gateway refused a request.

    Args:
        problem: The error that the gateway returned.
    """

    def __init__(self, problem: GatewayProblem) -> None:
        self.problem = problem
        super().__init__(problem.detail, problem.next_step or "")

    def __reduce__(self) -> tuple[type[GatewayError], tuple[GatewayProblem]]:  # type: ignore[override]
        return type(self), (self.problem,)


class GatewayUnavailable(OrganismError):
    """The gateway cannot be reached, or cannot reach the queue. You may send the same request again.

    A submission whose answer was lost may have been stored. With a ``dedup_key`` it is safe to repeat as long
    as that task is unfinished.
    """


class TaskEnded(OrganismError):
    """A task whose result was requested has failed or was cancelled.

    Args:
        outcome: How it ended.
    """

    def __init__(self, outcome: EndedTask) -> None:
        self.outcome = outcome
        super().__init__(
            f"task {outcome.id} is {outcome.status}: {outcome.error or 'it has no error text'}",
            f"see its attempts: `organism tasks show {outcome.id}`",
        )

    def __reduce__(self) -> tuple[type[TaskEnded], tuple[EndedTask]]:  # type: ignore[override]
        return type(self), (self.outcome,)


class StackError(OrganismError):
    """The embedded stack could not be started, joined or stopped."""


class RunStopped(OrganismError):
    """A flow run was stopped in good order, by a signal or from the Prefect UI."""


class PermanentError(Exception):
    """Raise it from a handler when another attempt cannot help; the task fails at once."""

    permanent = True


class RetryAfter(Exception):
    """Raise it from a handler to put the task off: it is tried again then, with the attempt not charged.

    Args:
        retry_after: Seconds, a moment with a time zone, or what an HTTP header ``Retry-After`` holds.
        why: Text for the history of the task.
        closes: ``"key"`` or the name of a limit: none of its tasks is claimed until then, by any lane.
    """

    def __init__(
        self,
        retry_after: float | str | datetime | timedelta,
        why: str = "not now",
        *,
        closes: str | None = None,
    ) -> None:
        self.retry_after = retry_after
        self.why = why
        self.closes = closes
        super().__init__(why)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross process borders, and the default leaves out what is only a keyword.
        return _retry_after, (self.retry_after, self.why, self.closes)


def _retry_after(retry_after: float | str | datetime | timedelta, why: str, closes: str | None) -> RetryAfter:
    return RetryAfter(retry_after, why, closes=closes)


class WaitFor(Exception):
    """Raise it from a handler to wait for an event: the task holds no slot until the event comes.

    Save with ``context.checkpoint`` what the next call needs. That call gets the event as ``context.event``,
    and the attempt is not charged.

    Args:
        event: Name of the event: 1 to 100 letters, digits and ``_ . : -``. Each name is for one event: later
            waits of the task need other names.
        timeout: Seconds, or the moment, after which it continues without the event. `None` means never.
        why: Text for the history of the task.
        or_fail: Fail after the timeout, instead of continuing.
    """

    def __init__(
        self,
        event: str,
        timeout: float | datetime | timedelta | None = None,
        why: str | None = None,
        *,
        or_fail: bool = False,
    ) -> None:
        self.wait_for_event = event
        self.retry_after = timeout
        self.why = why
        self.or_fail = or_fail
        super().__init__(why or f"waits for the event {event}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _wait_for, (self.wait_for_event, self.retry_after, self.why, self.or_fail)


def _wait_for(
    event: str, timeout: float | datetime | timedelta | None, why: str | None, or_fail: bool
) -> WaitFor:
    return WaitFor(event, timeout, why, or_fail=or_fail)


class EventRefused(OrganismError):
    """The task takes no more events: it has ended, or has had very many."""


class StaleClaim(Exception):
    """The task is no longer this attempt's: what a handler saves now changes nothing.

    It was cancelled, it timed out, its lease was lost, or a newer attempt has begun. A handler may catch this
    to clean up. What it returns afterwards is thrown away.
    """


class StreamFull(Exception):
    """The stream of a task has as many chunks, or as many bytes, as it may have. The chunk was not added.

    A handler may catch this and go on without emitting.
    """

    permanent = True


class MustLeave(Exception):
    """The replica is taken down: the handler must end, and its task continues on another one.

    The wait for a checkpoint raises it. A handler that lets it pass hands its task back with the attempt not
    charged, and the next attempt gets the newest checkpoint. A handler may raise it as well, once
    ``context.must_leave`` is true.
    """
