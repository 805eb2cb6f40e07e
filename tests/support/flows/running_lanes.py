"""Helpers for tests that run lanes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.lanes.lane import Lane
from organism_flows.flows.lanes.summary import LaneSummary

TIMEOUT = 30


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
    assert (await queue.reader.counts())["running"] == 0
    assert await queue.reader.lanes() == []


async def until_settled(lane: Lane, tasks: int) -> None:
    """Wait until the lane has settled so many."""
    async with asyncio.timeout(TIMEOUT):
        while lane.summary.settled < tasks:
            lane.signals.settled.clear()
            await lane.signals.settled.wait()
