"""A real service sees no call beyond its limits, whatever dies; and many where there are none."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from asyncio.subprocess import Process

import pytest

from organism_flows.blocks.queue import Limit, NewTask, Queue
from tests.support.flows.limited_service import LimitedService

pytestmark = pytest.mark.anyio
LANES = 3
AT_ONCE = 2


async def lane(dsn: str, url: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.flows.calling_lane", dsn, url
    )


async def fill(queue: Queue, tasks: int, keys: int) -> None:
    """Half of the tasks are of one key, the others shared out evenly."""
    for begin in range(0, tasks, 1000):
        numbers = range(begin, min(begin + 1000, tasks))
        names = ["big" if n % 2 else f"k{n // 2 % (keys - 1)}" for n in numbers]
        # The description is what the lane calls the service with.
        await queue.submit([NewTask(type="call", key=name, description=name) for name in names])


async def left(queue: Queue) -> int:
    counts = await queue.reader.counts()
    return counts["queued"] + counts["retry"] + counts["running"]


async def test_a_service_sees_no_call_beyond_its_limits(database: str) -> None:
    """tests/chaos/test_limits.py has 20,000 tasks, and kills replicas and Postgres as well."""
    tasks, keys, kills = 600, 40, 4
    chance = random.Random(1)
    per_second = 400
    # A call takes a while from the claim to the service, and not always the same: the limit keeps a tenth.
    limits = (
        Limit(name="each", kind="running", by_key=True, amount=AT_ONCE, exceptions={"big": 40}),
        Limit(name="together", kind="running", amount=100),
        Limit(name="rate", kind="rate", amount=int(0.9 * per_second), period_s=1),
    )
    service = LimitedService(at_once={"big": 40, "": AT_ONCE}, in_period=per_second, period_s=1, call_s=0.05)
    async with Queue(database) as queue, service as url:
        for limit in limits:
            await queue.operator.set_limit(limit)
        await fill(queue, tasks, keys)
        lanes = [await lane(database, url) for _ in range(LANES)]
        try:
            for _ in range(kills):
                before = sum(service.answered.values())
                async with asyncio.timeout(120):
                    while sum(service.answered.values()) < min(before + tasks // (2 * kills), tasks):
                        await asyncio.sleep(0.02)
                        if not await left(queue):
                            break
                victim = chance.randrange(LANES)
                lanes[victim].send_signal(signal.SIGKILL)
                await lanes[victim].wait()
                lanes[victim] = await lane(database, url)
            async with asyncio.timeout(600):
                while await left(queue):
                    await asyncio.sleep(0.05)
            counts = await queue.reader.counts()
        finally:
            for process in lanes:
                process.kill()
                await process.wait()
    assert (counts["completed"], counts["failed"]) == (tasks, 0)
    assert (service.beyond_at_once, service.beyond_rate) == (0, 0)
    assert service.most_at_once <= 100


async def test_without_limits_it_sees_many(database: str) -> None:
    service = LimitedService(at_once={"": AT_ONCE}, in_period=50, period_s=1, call_s=0.05)
    async with Queue(database) as queue, service as url:
        await fill(queue, 800, 10)
        process = await lane(database, url)
        try:
            async with asyncio.timeout(60):
                while service.calls < 800:
                    await asyncio.sleep(0.02)
        finally:
            process.kill()
            await process.wait()
    # How many depends on how fast calls follow each other: 19 at a load of 20 on 2 cores.
    assert service.beyond_at_once > 3
    assert service.beyond_rate > 30
