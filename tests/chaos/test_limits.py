"""A real service sees no call beyond its limits while lanes, replicas and Postgres are killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest

from organism_flows.blocks.queue import Limit, NewTask, Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from tests.chaos.dispatches import Dispatches
from tests.chaos.project import make_project
from tests.chaos.victims import VICTIMS, Kind, kill
from tests.support.flows.limited_service import LimitedService
from tests.support.stack import CONFIG, Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack, pytest.mark.chaos, pytest.mark.soak]
TASKS, KEYS = 20_000, 1000
LANES = 3
AT_ONCE, BIG_AT_ONCE, TOGETHER, RATE = 2, 20, 60, 240
LIMITS = (
    Limit(name="each", kind="running", by_key=True, amount=AT_ONCE, exceptions={"big": BIG_AT_ONCE}),
    Limit(name="together", kind="running", amount=TOGETHER),
    Limit(name="rate", kind="rate", amount=RATE, period_s=1),
)
ARRIVALS = RATE + TOGETHER
"""Most calls that may arrive within a second: a rate counts claims, and what was claimed before may arrive in
it as well."""
CALL_S = 0.05
KILLS: tuple[Kind, ...] = ("lane", "replica", "postgres") * 5
PATIENCE_S = 900.0


@pytest.fixture
def calling_stack(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """The running stack with two replicas of the organism of the chaos runs."""
    with monkeypatch.context() as patch:
        patch.setitem(stack.env, "ORGANISM_CONFIG", "")  # given back at the end
        patch.setitem(stack.env, "ORGANISM_REPLICAS", "2")
        make_project(stack, CONFIG.with_name("chaos.yaml").read_text())
        stack.run("up")
        yield stack
    stack.run("up")


class Run:
    """Tasks that call a service, and dispatch runs for them."""

    def __init__(self, stack: Stack, queue: Queue, service: LimitedService, url: str) -> None:
        self.stack, self.queue, self.service, self.url = stack, queue, service, url
        self.dispatches = Dispatches(stack, queue, LANES, lambda code: None)
        self._killed = 0
        self._chance = random.Random(1)

    async def fill(self, tasks: int, keys: int, **fields: int) -> None:
        """Half of the tasks are of one key, the others shared out evenly."""
        for begin in range(0, tasks, 1000):
            numbers = range(begin, min(begin + 1000, tasks))
            names = ["big" if n % 2 else f"k{n // 2 % (keys - 1)}" for n in numbers]
            await self.queue.submit(
                [
                    NewTask(type="call", key=key, params={"url": self.url, "key": key}, **fields)
                    for key in names
                ]
            )

    async def drain(self, kills: tuple[Kind, ...] = ()) -> None:
        """Until all have ended, with kills spread over the work."""
        tasks = await self.left()
        assert tasks
        before = self.service.answered.total()
        dispatching = asyncio.create_task(self.dispatches.keep_one())
        try:
            for number, kind in enumerate(kills, 1):
                goal = before + tasks * number // (len(kills) + 2)
                await until(partial(self.answered, goal), patience=PATIENCE_S)
                await self.kill(kind)
            await until(self.done, patience=PATIENCE_S)
        finally:
            dispatching.cancel()
            await asyncio.wait([dispatching])
            await self.dispatches.stop()

    def answered(self, goal: int) -> bool:
        return self.service.answered.total() >= goal

    async def kill(self, kind: Kind) -> None:
        pick = self._chance.random()
        await until(partial(kill, self.stack, kind, None, pick), patience=120)
        if VICTIMS[kind].needs_up:
            await asyncio.to_thread(self.stack.run, "up")

    async def left(self) -> int | None:
        """What has not ended; None while Postgres is away."""
        with suppress(*TRANSIENT_ERRORS):
            counts = await self.queue.reader.counts()
            return counts["queued"] + counts["retry"] + counts["running"]
        return None

    async def done(self) -> bool:
        return await self.left() == 0


async def test_a_service_sees_no_call_beyond_its_limits(calling_stack: Stack, stack_queue: Queue) -> None:
    at_once = {"big": BIG_AT_ONCE, "": AT_ONCE}
    service = LimitedService(at_once=at_once, in_period=ARRIVALS, period_s=1, call_s=CALL_S)
    async with service as url:
        run = Run(calling_stack, stack_queue, service, url)
        for limit in LIMITS:
            await stack_queue.operator.set_limit(limit)
        try:
            await run.fill(TASKS, KEYS)
            await run.drain(KILLS)
        finally:
            for limit in LIMITS:
                await stack_queue.operator.remove_limit(limit.name)
        counts = await stack_queue.reader.counts()
        print(service.calls, "calls of", len(service.answered), "tasks,", service.most_at_once, "at once")
        assert (counts["completed"], counts["failed"]) == (TASKS, 0)
        assert len(service.answered) == TASKS
        assert (service.beyond_at_once, service.beyond_rate) == (0, 0)
        assert service.most_at_once <= TOGETHER
        await run.fill(2000, 10, max_attempts=1)
        await run.drain()
        assert service.beyond_at_once + service.beyond_rate > 100, "without limits it sees many"
