"""An organ that has a deployment of its own, in this process, and whose replicas die by script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from organism_flows.blocks.errors import OrganismUnavailable, ReplicaLost
from organism_flows.blocks.json_text import from_json
from organism_flows.blocks.organism_reports import HealthReport
from organism_flows.blocks.queue import Batch, Outcomes
from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.serve_apps.organism.config import parse_config
from organism_flows.serve_apps.organism.manager import OrganismManager


class Elsewhere:
    """The deployment of an organ, in this process.

    Args:
        config: Of the organism it belongs to.
        organ_id: Its organ.
    """

    def __init__(self, config: dict[str, Any], organ_id: str) -> None:
        parsed = parse_config(config)
        [own] = [organ for organ in parsed.organs if organ.id == organ_id]
        self.manager = OrganismManager(parsed.alone(own), replica=organ_id)
        self.calls: list[list[Any]] = []
        """Names of the tasks of each."""
        self.away = 0
        """So many calls find no replica."""
        self.deadly: set[str] = set()
        """Names of tasks that end their replica before they end, and every call on it."""
        self.death = asyncio.Event()
        self.leaving = False
        """Its replicas say that they are being taken down."""

    async def call(self, tasks: Batch) -> AsyncGenerator[Outcomes, None]:
        names = [misbehaviour_name(text) for text in tasks.params]
        self.calls.append(names)
        if self.away:
            self.away -= 1
            raise OrganismUnavailable("no replica", "wait")
        death = self.death
        async for wire in self.manager.handle_tasks(tasks.to_wire()):
            if death.is_set():
                raise ReplicaLost("a replica died")
            outcomes = Outcomes.from_wire(wire)
            outcomes.leaving |= self.leaving
            deadly = self.deadly.intersection(names)
            yield Outcomes(leaving=outcomes.leaving) if deadly and len(outcomes) else outcomes
            if deadly:
                death.set()
                self.death = asyncio.Event()
            if death.is_set():
                raise ReplicaLost("a replica died")

    async def health(self) -> HealthReport:
        return HealthReport.of(self.manager.health())

    async def cancel(self, runs: Mapping[str, int]) -> None:
        self.manager.cancel_tasks(dict(runs))

    async def running(self) -> list[dict[str, Any]]:
        return [self.manager.running()]

    async def acknowledge(self, saved: Mapping[int, Acknowledgement]) -> None:
        self.manager.acknowledge(saved)

    async def limit_drain(self, within_s: float) -> None:
        self.manager.limit_drain(within_s)


def misbehaviour_name(text: str) -> Any:
    return from_json(text).get("name")
