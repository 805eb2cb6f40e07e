"""The router, which finds the organ for a task's type and domain."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from organism_flows.serve_apps.organism.config import OrganismConfig
from organism_flows.serve_apps.organism.execution.job_runner import JobRunner


class NoOrgan(Exception):
    """Error: there is no such organ. The message names the domains that are served, or similar names."""


class Router:
    """Finds the organ of a task: by type and domain, else by type alone, else the default organ.

    Args:
        config: A checked configuration.
        organs: The organs of ``config`` by id.
    """

    def __init__(self, config: OrganismConfig, organs: Mapping[str, JobRunner]) -> None:
        self._by_domain: dict[str, dict[str | None, JobRunner]] = {}
        """Organs by type and then domain. `None` stands for all other domains, and for no domain."""
        for organ in config.organs:
            domains: Sequence[str | None] = organ.domains or (None,)
            for name in organ.task_types:
                self._by_domain.setdefault(name, {}).update(dict.fromkeys(domains, organs[organ.id]))
        self._default = organs[config.default_organ] if config.default_organ else None
        self._organs = organs

    @property
    def types(self) -> list[str]:
        """Return every type that is served, for all domains or for some, sorted."""
        return sorted(self._by_domain)

    def route(self, task_type: str, domain: str | None) -> JobRunner:
        """Return the organ of a task.

        Raises:
            NoOrgan: No organ serves it.
        """
        places = self._by_domain.get(task_type)
        organ = self._default
        if places is not None:
            organ = places.get(domain) or places.get(None) or organ
        if organ is None:
            raise NoOrgan(self._explain(task_type, domain))
        return organ

    def organ(self, organ_id: str) -> JobRunner:
        """Return the organ with this id.

        Raises:
            NoOrgan: There is none.
        """
        if organ := self._organs.get(organ_id):
            return organ
        near = difflib.get_close_matches(organ_id[:200], self._organs, n=3, cutoff=0.5)
        known = (
            f"nearest known: {', '.join(near)}" if near else f"known: {', '.join(list(self._organs)[:20])}"
        )
        raise NoOrgan(f"there is no organ {organ_id[:200]!r}; {known}")

    def _explain(self, task_type: str, domain: str | None) -> str:
        if places := self._by_domain.get(task_type):
            wanted = "tasks without a domain" if domain is None else f"domain {domain[:200]!r}"
            served = ", ".join(sorted(filter(None, places))[:20])
            return f"no organ serves type {task_type[:200]!r} for {wanted}; it is served for: {served}"
        near = difflib.get_close_matches(task_type[:200], self._by_domain, n=3, cutoff=0.5)
        known = f"nearest known: {', '.join(near)}" if near else f"known: {', '.join(self.types[:20])}"
        return f"no organ serves type {task_type[:200]!r}; {known}"
