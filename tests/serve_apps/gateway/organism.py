"""An organism that answers as scripted, for tests of what the gateway makes of it."""

from __future__ import annotations

import asyncio
from typing import Any

from organism_flows.blocks.errors import OrganismUnavailable
from organism_flows.blocks.organism_reports import HealthReport, StatusReport
from organism_flows.serve_apps.gateway.organism_link import TooManyCalls


class ScriptedOrganism:
    """Answers while it is not ``gone``; holds its calls back until they are ``free``."""

    def __init__(self, *, types: list[str] | None = None, problem: str | None = None) -> None:
        self.gone = False
        self.busy = False
        self.problem = problem
        self.tasks: list[dict[str, Any]] = []
        self.stopped = 0
        self.free = asyncio.Event()
        self.free.set()
        self._types = types

    async def health(self) -> HealthReport:
        self._answer()
        return HealthReport(status="unhealthy" if self.problem else "healthy", problem=self.problem)

    async def status(self) -> StatusReport:
        self._answer()
        config = {"default_organ": None if self._types else "any"}
        return StatusReport(
            status="healthy", replica="r1", organs={}, task_types=self._types or [], config=config
        )

    async def running(self) -> dict[str, Any]:
        self._answer()
        raise OrganismUnavailable("it has no such route", "upgrade it")

    async def handle(self, task: dict[str, Any]) -> dict[str, Any]:
        self._answer()
        if self.busy:
            raise TooManyCalls
        self.tasks.append(task)
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return {
            "task_id": "1",
            "success": True,
            "result": task["params"],
            "error": None,
            "retryable": False,
            "path": "fast",
            "organ_id": "o",
            "elapsed_ms": 1.0,
        }

    def _answer(self) -> None:
        if self.gone:
            raise OrganismUnavailable("it is gone", "start it")
