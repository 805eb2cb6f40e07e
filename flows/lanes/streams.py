"""Streams: the tasks that share a window, because one organ runs them."""

from __future__ import annotations

from organism_flows.blocks.queue import Batch, Outcomes

KNOWN_LIMIT = 10_000
"""Most types and domains whose organ is known. Beyond them all are learned anew."""


class Streams:
    """The streams of one lane: of each type, the tasks that one organ runs.

    Which organ runs which domain only the organism knows, and says with each outcome. Until the first one,
    the tasks of a domain are a stream of their own.
    """

    def __init__(self) -> None:
        self._organs: dict[tuple[str, str], str] = {}
        """Organ of each type and domain."""
        self._names: dict[tuple[str, str], str] = {}
        """Stream of each type and organ: that of the first domain that was seen there, with its window."""

    def of(self, task_type: str, domain: str | None) -> str:
        """Return the stream of the tasks of a type and domain."""
        organ = self._organs.get((task_type, domain or ""))
        return _own(task_type, domain) if organ is None else self._names[task_type, organ]

    def learn(self, batch: Batch, outcomes: Outcomes) -> None:
        """Learn from outcomes which organs ran the tasks of a batch."""
        # Without domains all of a call go one way.
        told = range(len(outcomes)) if any(batch.domains) else range(min(len(outcomes), 1))
        for row in told:
            organ, position = outcomes.organ_ids[row], outcomes.positions[row]
            if organ is None or outcomes.paths[row] != "fast":
                continue  # what drifted was elsewhere
            task_type, domain = batch.types[position], batch.domains[position]
            place = (task_type, domain or "")
            if self._organs.get(place) == organ:
                continue
            if len(self._organs) >= KNOWN_LIMIT:
                self._organs.clear()
                self._names.clear()
            own = f"{task_type} in {organ}" if place in self._organs else _own(task_type, domain)
            self._names.setdefault((task_type, organ), own)
            self._organs[place] = organ


def _own(task_type: str, domain: str | None) -> str:
    return f"{task_type}/{domain}" if domain else task_type
