"""What the tests of the queue do again and again."""

from __future__ import annotations

from typing import Any

from organism_flows.blocks.queue import Batch, Outcomes, Queue
from organism_flows.blocks.queue.wire import Cause


async def claim(queue: Queue, lane: str = "lane", limit: int = 100) -> Batch:
    if await queue.leases.renew(lane) is None:
        await queue.leases.register(lane)
    return await queue.claims.claim(lane, limit)


def outcomes_of(batch: Batch, cause: Cause, **columns: Any) -> Outcomes:
    outcomes = Outcomes()
    for position in range(len(batch)):
        outcomes.add(position, cause, **columns)
    return outcomes
