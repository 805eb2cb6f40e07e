"""What a handler reports of its task while it runs, on its way from the replica to the table.

It imports nothing of the queue, so that the worker processes of handlers start fast.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class Chunks(NamedTuple):
    """Chunks that a handler has emitted, in their order."""

    texts: Sequence[str]
    """JSON text of each."""
    anew: bool = False
    """True if they are the first of a run of the handler. What an earlier run under the same claim has
    emitted no longer counts: a batch that failed as a whole is run again task by task."""
    run_begin: int = 0
    """Number of the begin of their run. The lane gives numbers: all reports of a claim pass through it."""
    last: int = 0
    """Number of the last of them. Those of a claim are numbered from 1."""

    def after(self, earlier: Chunks | None) -> Chunks:
        """Return ``earlier`` and these as one. They take the place of those of an earlier run."""
        if earlier is None or self.anew:
            return self
        # A list is extended in place: a copy for each chunk would take quadratic time. Only this makes lists.
        texts = earlier.texts if isinstance(earlier.texts, list) else list(earlier.texts)
        texts.extend(self.texts)
        return Chunks(texts, earlier.anew)

    def numbered(self, earlier: Chunks | None) -> Chunks:
        """Return these with their numbers.

        Args:
            earlier: The last ones that were numbered under their claim. `None`: these are the first.
        """
        begin, last = (earlier.run_begin, earlier.last) if earlier else (0, 0)
        if earlier and self.anew:
            begin = last = last + 1
        return self._replace(run_begin=begin, last=last + len(self.texts))


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
    chunks: Chunks | None = None
    """Chunks since the last report. `None` means that there are none."""

    def after(self, earlier: TaskReport | None) -> TaskReport:
        """Return one report in place of ``earlier`` and this one: of each part the newest, and all chunks."""
        if earlier is None:
            return self
        return TaskReport(
            self.position,
            max(self.step, earlier.step),
            earlier.state if self.state is None else self.state,
            self.progress or earlier.progress,
            self.awaited or earlier.awaited,
            earlier.chunks if self.chunks is None else self.chunks.after(earlier.chunks),
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
    """Seconds after which the handler is stopped, because its replica or its lane is taken down. `None`: it
    may stay."""
