"""An organism that behaves as the task type says, so that a lane can be tried in every situation."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence

from blocks.errors import OrganismUnavailable, ReplicaLost
from blocks.queue import Batch, Outcomes


class ScriptedOrganism:
    """What a task does is its domain, else its type: ``ok``, ``fail``, ``reject``, ``hang`` (until
    ``let_go``), ``long`` (until cancelled), ``kill`` (the replica dies), ``bug``.

    While ``away`` is set, no replica takes a call.
    """

    def __init__(self) -> None:
        self.away = False
        self.let_go = asyncio.Event()
        self.started = asyncio.Event()
        self.refused = asyncio.Event()
        self.runs: Counter[str] = Counter()
        self.calls: list[tuple[int, bool]] = []
        """Size and exclusiveness of each call."""
        self.closed = 0
        self.cancelled: set[int] = set()
        self.told = asyncio.Event()

    async def cancel(self, claims: Sequence[int]) -> None:
        self.cancelled.update(claims)
        self.told.set()

    async def call(self, batch: Batch, *, exclusive: bool) -> AsyncGenerator[Outcomes, None]:
        if self.away:
            self.refused.set()
            raise OrganismUnavailable("no replica")
        self.calls.append((len(batch), exclusive))
        self.started.set()
        try:
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
                    case "kill":
                        raise ReplicaLost("the replica died")
                    case "bug":
                        raise RuntimeError("a mistake of ours")
                yield outcomes
        finally:
            self.closed += 1
