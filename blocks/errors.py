"""Errors that a user can cause or meet. Each carries one line: what happened, and what to do next."""

from __future__ import annotations


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


class QueueUnavailable(OrganismError):
    """Postgres cannot be reached or refuses the connection."""


class SchemaMismatch(OrganismError):
    """The database does not hold the tables that this version expects."""


class OrganismUnavailable(OrganismError):
    """No replica took the call. Nothing of it ran, so no attempt may be charged for it."""


class ReplicaLost(OrganismError):
    """A replica accepted the call, and then died or fell silent. What it had not reported is unknown."""


class StackError(OrganismError):
    """The embedded stack could not be started, joined or stopped."""
