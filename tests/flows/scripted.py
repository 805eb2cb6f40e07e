"""An organism that behaves as the task type says, so that a lane can be tried in every situation."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from organism_flows.blocks.errors import OrganismUnavailable, ReplicaLost
from organism_flows.blocks.queue import Batch, NewTask, Outcomes, Queue
from organism_flows.flows.lanes.lane import Lane
from organism_flows.flows.lanes.summary import LaneSummary

TIMEOUT = 30


class ScriptedOrganism:
    """What a task does is its domain, else its type.

    - ``ok``, ``fail``, ``reject``: it ends so.
    - ``hang``: until ``let_go``; ``begin``: likewise, and it says that it begins.
    - ``wait``: for a handler, until it is recalled or let go.
    - ``long``: until it is cancelled; ``deaf``: no message reaches it.
    - ``interrupt``: the replica stops, the first time.
    - ``kill``: what it runs in dies, the replica or a process of its own; ``doom``: the replica, in any case.
    - ``silent``: it gives signs of life and nothing else.
    - ``bug``: a mistake of ours.

    While ``away`` is set, calls are refused; while ``taking`` is not set, they wait for a replica.
    """

    def __init__(self) -> None:
        self.away = False
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
        self.told = asyncio.Event()

    async def cancel(self, runs: Mapping[str, int]) -> None:
        self.stopped.append(dict(runs))
        for batch in self.calls:
            for task, claim in zip(batch.ids, batch.claims, strict=True):
                if claim <= runs.get(task, -1):
                    self.cancelled.add(claim)
        self.told.set()

    async def recall(self, claims: Sequence[int], *, leaving: bool) -> None:
        self.recalled.update(claims)
        self.told.set()

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
                    case "ok":
                        outcomes.add(position, "completed", result="{}")
                    case "fail":
                        outcomes.add(position, "failed", error="ValueError: boom")
                    case "reject":
                        outcomes.add(position, "rejected", error="no organ")
                    case "hang":
                        await self.let_go.wait()
                        outcomes.add(position, "completed", result="{}")
                    case "long":  # until cancelled
                        while batch.claims[position] not in self.cancelled:
                            self.told.clear()
                            await self.told.wait()
                        outcomes.add(position, "cancelled", error="cancelled")
                    case "begin":  # a handler begins, and ends when it is let go
                        yield Outcomes(begun=[position])
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
                        yield Outcomes(begun=[position])
                        await asyncio.Event().wait()
                    case "interrupt":
                        first = self.runs[batch.ids[position]] == 1
                        outcomes.add(
                            position, "interrupted" if first else "completed", result=None if first else "1"
                        )
                    case "silent":
                        yield Outcomes(timeout_s=0.0)
                        while True:
                            await asyncio.sleep(0.01)
                            yield Outcomes()
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


@asynccontextmanager
async def running(lane: Lane) -> AsyncIterator[asyncio.Task[LaneSummary]]:
    task = asyncio.create_task(lane.run())
    try:
        yield task
    finally:
        lane.stop()
        with suppress(Exception, asyncio.CancelledError):
            await asyncio.wait_for(task, TIMEOUT)


async def submit(queue: Queue, *types: str, **fields: object) -> list[str]:
    return [str(i) for i in await queue.submit([NewTask(type=t, **fields) for t in types])]


async def nothing_left_behind(queue: Queue) -> None:
    assert (await queue.counts())["running"] == 0
    assert await queue.lanes() == []


async def until_settled(lane: Lane, tasks: int) -> None:
    """Wait until the lane has settled so many."""
    async with asyncio.timeout(TIMEOUT):
        while lane.summary.settled < tasks:
            lane.signals.settled.clear()
            await lane.signals.settled.wait()
