"""What a handler reports of its task while it runs, on its way from the replica to the table.

It imports nothing of the queue, so that the worker processes of handlers start fast.
"""

from __future__ import annotations

from typing import NamedTuple


class Checkpoint(NamedTuple):
    """The newest saved state of a task, as the next attempt gets it."""

    step: int
    """How many different states led to it, those of earlier attempts included."""
    state: str
    """JSON text."""


class EndedWait(NamedTuple):
    """The end of the newest wait of a task for an event, as the next attempts get it."""

    event: str
    """Name of the event."""
    payload: str | None
    """JSON text. `None` means that it has none, or did not come."""
    timed_out: bool
    """True if the event did not come in time."""
    or_fail: bool
    """True if the task fails then, instead of continuing."""


class Progress(NamedTuple):
    """How far a task is, as its handler says."""

    fraction: float | None
    """Done share, from 0 to 1. `None` means unknown."""
    note: str


class TaskReport(NamedTuple):
    """What one task of a batch has reported since its last report."""

    position: int = 0
    """Index of the task in its batch."""
    step: int = 0
    """Step of its newest checkpoint; see `Checkpoint.step`."""
    state: str | None = None
    """JSON text of a new checkpoint. `None` means that there is none since the last report."""
    progress: Progress | None = None
    """`None` means no new one."""
    awaited: bool = False
    """True if the handler waits until what it has reported is durable."""

    def after(self, earlier: TaskReport | None) -> TaskReport:
        """Return one report in place of ``earlier`` and this one: of each part the newest."""
        if earlier is None:
            return self
        return TaskReport(
            self.position,
            max(self.step, earlier.step),
            earlier.state if self.state is None else self.state,
            self.progress or earlier.progress,
            self.awaited or earlier.awaited,
        )


class Acknowledgement(NamedTuple):
    """What a running handler gets to know: the answer to a report that is awaited, or that it must leave."""

    step: int = 0
    """Checkpoints up to this step are durable, unless there is a problem."""
    problem: str | None = None
    """Why what was reported is not durable."""
    stale: bool = False
    """True if the problem is that the claim is no longer the newest of its task."""
    leave_within_s: float | None = None
    """Seconds after which the handler is stopped, because its replica is taken down. `None`: it may stay."""
