"""An organism in this process that remembers every run, for chaos among plain asyncio lanes."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from uuid import UUID

from organism_flows.blocks.errors import ReplicaLost
from organism_flows.blocks.queue import Batch, Outcomes
from organism_flows.blocks.snooze import Snooze
from organism_flows.blocks.task_report import Acknowledgement, Chunks, TaskReport
from tests.support.history import CHUNKS_OF_A_RUN, Run

EVENT = "go"


class Witness:
    """One replica. Types: ``held`` ends when it is `let_go`; ``asks`` waits for the event `EVENT` and returns
    what came with it; ``poison`` ends the replica when `neighbours` others run on it and, once suspected, the
    process of its own that it runs in.

    Args:
        runs: Where runs are written down; several replicas may share it.
        neighbours: See above.
        emits: Each run emits some chunks just before it completes.
    """

    def __init__(
        self, runs: dict[UUID, list[Run]] | None = None, *, neighbours: int = 0, emits: bool = False
    ) -> None:
        self.runs: dict[UUID, list[Run]] = defaultdict(list) if runs is None else runs
        self.let_go = asyncio.Event()
        self.begun = asyncio.Event()
        self.deaths = 0
        self._neighbours = neighbours
        self._emits = emits
        self._present = 0
        self._crowd = asyncio.Event()
        self._death = asyncio.Event()

    async def cancel(self, runs: Mapping[str, int]) -> None:
        """Nothing is ever cancelled here."""

    async def recall(self, claims: Sequence[int], *, leaving: bool) -> None:
        """Nothing ever waits here."""

    async def acknowledge(self, saved: Mapping[int, Acknowledgement]) -> None:
        """Nothing waits for its checkpoints here."""

    async def call(self, batch: Batch) -> AsyncGenerator[Outcomes, None]:
        yield Outcomes()
        for position, claim in enumerate(batch.claims):
            ended = await self._run(batch, position)
            for number in range(1, CHUNKS_OF_A_RUN + 1) if self._emits else ():
                chunks = Chunks([f"[{claim}, {number}]"], anew=number == 1)
                yield Outcomes(reports=[TaskReport(position, chunks=chunks)])
            yield ended

    async def _run(self, batch: Batch, position: int) -> Outcomes:
        run = Run(batch.claims[position], time.time(), replica=id(self))
        self.runs[UUID(batch.ids[position])].append(run)
        self.begun.set()
        self._present += 1
        if self._present > self._neighbours:
            self._crowd.set()
        try:
            if batch.types[position] == "poison":
                if batch.suspicions[position]:
                    return _failed(position)
                await self._crowd.wait()
                self._die()
            await self._held()
        finally:
            self._present -= 1
            run.ended = time.time()
        outcomes = Outcomes()
        result: dict[str, object] = {"claim": run.claim}
        if batch.types[position] == "asks":
            if (wait := batch.waits.get(run.claim)) is None:
                outcomes.add(position, "snoozed", result=Snooze(event=EVENT).to_json(), error="it asks")
                return outcomes
            result["got"] = [json.loads(wait.payload or "null")]
        outcomes.add(position, "completed", result=json.dumps(result))
        return outcomes

    def _die(self) -> None:
        self.deaths += 1
        death, self._death = self._death, asyncio.Event()
        death.set()
        self.let_go.set()
        raise ReplicaLost("the replica died")

    async def _held(self) -> None:
        """Until let go, or dead with the replica."""
        death = self._death
        waiting = [asyncio.ensure_future(event.wait()) for event in (self.let_go, death)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiting:
                waiter.cancel()
        if death.is_set():
            raise ReplicaLost("the replica died")


def _failed(position: int) -> Outcomes:
    outcomes = Outcomes()
    outcomes.add(position, "failed", error="the worker process died: SIGKILL")
    return outcomes
