"""An organism that does as it is told, so that lanes and the gateway can be tried in every situation."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from organism_flows.blocks.errors import OrganismUnavailable, ReplicaLost
from organism_flows.blocks.organism_reports import HealthReport, StatusReport
from organism_flows.blocks.queue import Batch, Outcomes
from organism_flows.blocks.snooze import Snooze
from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.serve_apps.gateway.organism_link import TooManyCalls


class ScriptedOrganism:
    """Takes the calls of lanes, and those of the gateway.

    What a task of a lane does is its domain, else its type. A canary is ``ok``.

    - ``ok``, ``fail``, ``reject``: it ends so.
    - ``hang``: until ``let_go``; ``begin``: likewise, and it says that it begins.
    - ``last``: the last of several in a call as ``hang``, the others as ``ok``.
    - ``wait``: for a handler, until it is recalled or let go.
    - ``long``: until it is cancelled; ``deaf``: no message reaches it.
    - ``interrupt``: the replica stops, the first time.
    - ``kill``: what it runs in dies, the replica or a process of its own; ``doom``: the replica, in any case.
    - ``silent``: it gives signs of life and nothing else.
    - ``bug``: a mistake of ours.

    While ``away`` is set, calls are refused; while ``taking`` is not set, they wait for a replica.

    Args:
        types: The task types that it serves; `None`: any.
        problem: Why it is unhealthy.
    """

    def __init__(self, *, types: list[str] | None = None, problem: str | None = None) -> None:
        self._types = types
        self._problem = problem
        self.away = False
        self.busy = False
        """It has no room for another call of the gateway."""
        self.tasks: list[dict[str, Any]] = []
        """Tasks of the gateway."""
        self.given_up = 0
        """Calls of the gateway that nobody waits for any more."""
        self.taking = asyncio.Event()
        self.taking.set()
        self.let_go = asyncio.Event()
        self.started = asyncio.Event()
        self.refused = asyncio.Event()
        self.runs: Counter[str] = Counter()
        self.calls: list[Batch] = []
        self.closed = 0
        self.cancelled: set[int] = set()
        self.recalled: set[int] = set()
        self.stopped: list[dict[str, int]] = []
        """What was to be stopped, by id and newest claim."""
        self.acknowledged: dict[int, Acknowledgement] = {}
        self.messaged = asyncio.Event()

    async def cancel(self, runs: Mapping[str, int]) -> None:
        self.stopped.append(dict(runs))
        for batch in self.calls:
            for task, claim in zip(batch.ids, batch.claims, strict=True):
                if claim <= runs.get(task, -1):
                    self.cancelled.add(claim)
        self.messaged.set()

    async def recall(self, claims: Sequence[int], *, leaving: bool) -> None:
        self.recalled.update(claims)
        self.messaged.set()

    async def acknowledge(self, saved: Mapping[int, Acknowledgement]) -> None:
        self.acknowledged.update(saved)
        self.messaged.set()

    async def call(self, batch: Batch) -> AsyncGenerator[Outcomes, None]:
        if self.away:
            self.refused.set()
            raise OrganismUnavailable("no replica")
        self.calls.append(batch)
        self.started.set()
        try:
            await self.taking.wait()
            yield Outcomes()
            for position, task_type in enumerate(batch.types):
                kind = batch.domains[position] or task_type
                self.runs[batch.ids[position]] += 1
                outcomes = Outcomes()
                match kind:
                    case "ok" | "canary":
                        outcomes.add(position, "completed", result="{}")
                    case "fail":
                        outcomes.add(position, "failed", error="ValueError: boom")
                    case "reject":
                        outcomes.add(position, "rejected", error="no organ")
                    case "last" if position < len(batch) - 1 or not position:
                        outcomes.add(position, "completed", result="{}")
                    case "hang" | "last":
                        await self.let_go.wait()
                        outcomes.add(position, "completed", result="{}")
                    case "long":  # until cancelled
                        while batch.claims[position] not in self.cancelled:
                            self.messaged.clear()
                            await self.messaged.wait()
                        outcomes.add(position, "cancelled", error="cancelled")
                    case "begin":  # a handler begins, and ends when it is let go
                        yield Outcomes(begun={position: None})
                        await self.let_go.wait()
                        outcomes.add(position, "completed", result="{}")
                    case "wait":
                        while not (batch.claims[position] in self.recalled or self.let_go.is_set()):
                            yield Outcomes(waiting=True)
                            await asyncio.sleep(0.01)
                        if batch.claims[position] in self.recalled:
                            outcomes.add(position, "recalled")
                        else:
                            outcomes.add(position, "completed", result="{}")
                    case "deaf":  # its replica is being taken down: no message reaches it
                        yield Outcomes(begun={position: None})
                        await asyncio.Event().wait()
                    case "interrupt":
                        first = self.runs[batch.ids[position]] == 1
                        outcomes.add(
                            position, "interrupted" if first else "completed", result=None if first else "1"
                        )
                    case "busy" if self.runs[batch.ids[position]] == 1:
                        asked = Snooze(after_s=0.3, closes="key").to_json()
                        outcomes.add(position, "snoozed", result=asked, error="429")
                    case "busy":
                        outcomes.add(position, "completed", result="1")
                    case "silent":
                        yield Outcomes(timeout_s=0.0)
                        while True:
                            await asyncio.sleep(0.01)
                            yield Outcomes()
                    case "taken down" if self.runs[batch.ids[position]] == 1:
                        yield Outcomes(begun={position: None}, leaving=True)
                        raise ReplicaLost("the replica died")
                    case "taken down":
                        outcomes.add(position, "completed", result=str(batch.suspicions[position]))
                    case "kill" if batch.suspicions[position]:
                        outcomes.add(position, "failed", error="the worker process died: SIGKILL")
                    case "kill":
                        raise ReplicaLost("the replica died")
                    case "doom":  # whatever it runs in, its replica dies
                        raise ReplicaLost("the replica died")
                    case "bug":
                        raise RuntimeError("a mistake of ours")
                yield outcomes
        finally:
            self.closed += 1

    async def health(self) -> HealthReport:
        self._answer()
        return HealthReport(status="unhealthy" if self._problem else "healthy", problem=self._problem)

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
            await self.taking.wait()
        except asyncio.CancelledError:
            self.given_up += 1
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
        if self.away:
            raise OrganismUnavailable("it is gone", "start it")
