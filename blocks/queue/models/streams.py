"""The streams of tasks: the chunks that their handlers emit, as readers get them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from organism_flows.blocks.json_text import readable_json
from organism_flows.blocks.queue.models.operations import FINISHED
from organism_flows.blocks.queue.models.rows import TaskState


class StreamPlace(NamedTuple):
    """How far a reader of a stream is."""

    task_id: UUID
    claim: int = 0
    """Claim that the last chunk was emitted under. 0 means that the reader has seen nothing."""
    number: int = 0
    """Number of the last chunk within that claim."""


@dataclass(frozen=True, slots=True)
class StreamBegin:
    """The stream of a task begins, or begins again: what was read before no longer counts."""

    claim: int
    """Claim of the attempt. It only ever grows."""
    number: int
    """Its place in the stream of the claim: 0, or more if the handler was run again under the same claim."""
    attempt: int
    """Number of the attempt, from 1."""


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """One chunk that a handler has emitted."""

    claim: int
    number: int
    """Its number within the claim. It grows."""
    text: str
    """JSON text."""

    @property
    def value(self) -> Any:
        """Return the value that the handler has emitted."""
        return readable_json(self.text)


class StoredChunks(NamedTuple):
    """Chunks that were written together."""

    number: int
    """Number of the last of them."""
    run_begin: int
    """Number of the begin of the run that emitted them."""
    texts: list[str]


@dataclass(slots=True)
class StreamPart:
    """A task, and the next chunks of its stream after a place."""

    state: TaskState
    claim: int
    stored: list[StoredChunks]

    @property
    def ended(self) -> bool:
        """Return True if nothing follows: the task has ended, and there are no chunks after the place."""
        return self.state.status in FINISHED and not self.stored

    def events(self, place: StreamPlace) -> Iterator[StreamBegin | StreamChunk]:
        """Yield what a reader at ``place``, which this part was read for, sees next.

        Each chunk of the newest claim comes once. A begin comes before the first chunk of another claim or
        run, even if that has no chunk yet.
        """
        number = place.number
        if self.claim != place.claim:
            number = 0
            yield StreamBegin(self.claim, 0, self.state.attempts)
        for last, run_begin, texts in self.stored:
            if run_begin > number:
                number = run_begin
                yield StreamBegin(self.claim, number, self.state.attempts)
            # A reader may have been cut off in the middle of what was written together.
            for number_of_text, text in enumerate(texts, last - len(texts) + 1):
                if number_of_text > number:
                    yield StreamChunk(self.claim, number_of_text, text)
            number = last
