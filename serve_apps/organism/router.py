"""Task type → organ."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from serve_apps.organism.config import OrganismConfig
from serve_apps.organism.organ import Organ


class NoOrgan(Exception):
    """No organ serves the type; the message lists the nearest types that are served."""


class Router:
    """Finds the organ of a task.

    Args:
        config: A checked configuration.
        organs: The organs of ``config`` by id.
    """

    def __init__(self, config: OrganismConfig, organs: Mapping[str, Organ]) -> None:
        self._by_type = {name: organs[organ.id] for organ in config.organs for name in organ.task_types}
        self._escalation = config.escalation
        self._escalation_organ = organs[config.escalation.organ] if config.escalation else None

    @property
    def types(self) -> list[str]:
        """Every type served, sorted."""
        return sorted(self._by_type)

    def route(self, task_type: str, drift_score: float) -> tuple[Organ, str]:
        """The organ of a task, and its path: ``fast``, or ``escalated`` when its drift is too much.

        Raises:
            NoOrgan: Nothing serves its type.
        """
        organ = self._by_type.get(task_type)
        if organ is None:
            raise NoOrgan(self._explain(task_type))
        if self._escalation and self._escalation_organ and drift_score >= self._escalation.drift_score:
            return self._escalation_organ, "escalated"
        return organ, "fast"

    def _explain(self, task_type: str) -> str:
        near = difflib.get_close_matches(task_type[:200], self._by_type, n=3, cutoff=0.5)
        known = f"nearest known: {', '.join(near)}" if near else f"known: {', '.join(self.types[:20])}"
        return f"no organ serves type {task_type[:200]!r}; {known}"
