"""A lane in a process of its own whose tasks call a service, to be killed by a test."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence

import httpx

from organism_flows.blocks.queue import Batch, Outcomes, Queue
from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.flows.lanes.lane import Lane


class CallingOrganism:
    """Calls a service once for each task, all tasks of a call at once.

    Args:
        client: Client of the service.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def call(self, batch: Batch) -> AsyncGenerator[Outcomes, None]:
        yield Outcomes()
        calls = [asyncio.create_task(self._one(batch, position)) for position in range(len(batch))]
        for done in asyncio.as_completed(calls):
            yield await done

    async def _one(self, batch: Batch, position: int) -> Outcomes:
        outcomes = Outcomes()
        answer = await self._client.post(f"/call/{batch.descriptions[position]}/{batch.ids[position]}")
        if answer.status_code == 200:
            outcomes.add(position, "completed", result="{}", organ_id="service")
        else:
            outcomes.add(position, "failed", error=f"the service answers {answer.status_code}")
        return outcomes

    async def cancel(self, runs: Mapping[str, int]) -> None: ...

    async def recall(self, claims: Sequence[int], *, leaving: bool) -> None: ...

    async def acknowledge(self, saved: Mapping[int, Acknowledgement]) -> None: ...


async def main(dsn: str, url: str) -> None:
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client,
        Queue(dsn, lease_s=2, backoff_base_s=0.05, backoff_cap_s=0.2) as queue,
    ):
        await Lane(queue, CallingOrganism(client)).run()


asyncio.run(main(sys.argv[1], sys.argv[2]))
