"""What the tests of the queue do again and again."""

from __future__ import annotations

from organism_flows.blocks.queue import Batch, Outcomes, Queue


async def claim(queue: Queue, lane: str = "lane", limit: int = 100) -> Batch:
    if await queue.renew(lane) is None:
        await queue.register(lane)
    return await queue.claim(lane, limit)


def outcomes_of(batch: Batch, cause: str, **columns: str) -> Outcomes:
    outcomes = Outcomes()
    for position in range(len(batch)):
        outcomes.add(position, cause, **columns)  # type: ignore[arg-type]
    return outcomes
