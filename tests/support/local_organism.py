"""A real organism in this process, for lanes: its replica dies when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from organism_flows.blocks.errors import ReplicaLost
from organism_flows.blocks.queue import Batch, Outcomes
from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.serve_apps.organism.manager import OrganismManager


class LocalOrganism:
    """Takes the calls of lanes and runs them on an `OrganismManager`, which a new one replaces when it dies.

    Args:
        config: Configuration of the organism.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.manager = OrganismManager(config)
        self._death = asyncio.Event()
        self.loses: Callable[[Outcomes], bool] = lambda _: False
        """Returns True for a message that does not arrive, because the replica has just died."""
        self.deaths = 0

    def kill(self) -> None:
        """Let the replica die: what runs on it goes on unseen, and nothing of it arrives any more."""
        self.deaths += 1
        self._death.set()
        self._death = asyncio.Event()
        self.manager = OrganismManager(self.config)

    def replace(self) -> None:
        """Take the replica down in good order: another one takes its place at once."""
        old, self.manager = self.manager, OrganismManager(self.config)
        old.drain()

    async def call(self, batch: Batch) -> AsyncGenerator[Outcomes, None]:
        death = self._death
        async with aclosing(self.manager.handle_tasks(batch.to_wire())) as messages:
            while True:
                following = asyncio.ensure_future(anext(messages))
                dying = asyncio.ensure_future(death.wait())
                try:
                    await asyncio.wait({following, dying}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    dying.cancel()
                    if death.is_set() or not following.done():
                        following.cancel()
                        await asyncio.wait({following})
                if death.is_set():
                    raise ReplicaLost("the replica died")
                try:
                    outcomes = Outcomes.from_wire(following.result())
                except StopAsyncIteration:
                    return
                if self.loses(outcomes):
                    self.kill()
                    raise ReplicaLost("the replica died")
                yield outcomes

    async def cancel(self, runs: Mapping[str, int]) -> None:
        self.manager.cancel_tasks(dict(runs))

    async def recall(self, claims: Sequence[int], *, leaving: bool) -> None:
        self.manager.recall_tasks(list(claims), leaving)

    async def acknowledge(self, saved: Mapping[int, Acknowledgement]) -> None:
        self.manager.acknowledge(saved)
