"""A dispatch run sees lanes die, freeze or lose Postgres, tells Prefect, and goes on (promises 1, 6)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any
from uuid import uuid4

import psutil
import pytest

from organism_flows.blocks.queue import NewTask, Queue
from tests.support.flows.runs import lane_runs
from tests.support.history import check_history
from tests.support.sql import pool_of
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack, pytest.mark.chaos]
TASKS = 600
LEASE_S = 3.0


class Run:
    """A dispatch run some way into tasks that leave evidence."""

    def __init__(self, stack: Stack, queue: Queue) -> None:
        self.stack = stack
        self.queue = queue
        self.evidence = stack.home / f"evidence-{uuid4().hex}"
        self.evidence.touch()

    async def begin(self, *, lanes: int) -> None:
        # A task that backs off keeps lanes waiting until all are there: they may start further apart than
        # the tasks last.
        guard = await pool_of(self.queue).fetchval(
            "INSERT INTO tasks (type, status, run_after) "
            "VALUES ('evidence', 'retry', now() + interval '1 hour') RETURNING id"
        )
        self.process = self.stack.start("dispatch", "--until-empty", "--lanes", str(lanes), "--json")
        await until(self.all_there(lanes))
        params = {"seconds": 0.1, "file": str(self.evidence)}
        tasks = [NewTask(type="evidence", params=params) for _ in range(TASKS)]
        self.ids = [str(i) for i in await self.queue.submit(tasks)]
        await pool_of(self.queue).execute("DELETE FROM tasks WHERE id = $1", guard)
        await until(self.all_at_work(lanes))

    def all_there(self, lanes: int) -> Any:
        async def there() -> bool:
            return len(await self.queue.reader.lanes()) == lanes

        return there

    def all_at_work(self, lanes: int) -> Any:
        async def settling() -> bool:
            return sum(lane.settled > 0 for lane in await self.queue.reader.lanes()) == lanes

        return settling

    async def end(self) -> dict[str, Any]:
        summary: dict[str, Any] = await asyncio.to_thread(self.stack.finish, self.process)
        await check_history(self.queue, self.ids, self.evidence)
        assert (await self.queue.reader.counts())["completed"] == TASKS
        return summary


async def test_a_frozen_lane_is_killed_and_replaced(stack: Stack, stack_queue: Queue) -> None:
    run = Run(stack, stack_queue)
    await run.begin(lanes=2)
    frozen = next(lane for lane in await stack_queue.reader.lanes() if lane.number == 1)
    process = psutil.Process(frozen.pid)
    os.kill(frozen.pid, signal.SIGSTOP)
    since = time.monotonic()
    # A lease of silence, the time to end by itself, and the 5 s after which Ray kills what does not answer:
    # 13 s where each process has a processor, and more than 23 s where two stacks share two.
    await until(lambda: not process.is_running())
    print(f"frozen lane gone after {time.monotonic() - since:.1f} s")
    summary = await run.end()
    assert (summary["lanes"], summary["lanes_died"]) == (3, 1)
    assert summary["settled_by_dead_lanes"] >= frozen.settled > 0
    assert summary["completed"] + summary["settled_by_dead_lanes"] <= TASKS
    assert ["has not renewed its lease" in error for error in summary["errors"]] == [True]
    states = await lane_runs()
    assert states["lane-1"].is_crashed()
    assert "has not renewed its lease of 3 s" in states["lane-1"].message
    assert states["lane-2"].is_completed()
    assert states["lane-3"].is_completed()
    assert await stack_queue.reader.lanes() == []


@pytest.mark.soak
async def test_a_killed_lane_is_replaced_within_seconds(stack: Stack, stack_queue: Queue) -> None:
    run = Run(stack, stack_queue)
    await run.begin(lanes=1)
    [killed] = await stack_queue.reader.lanes()
    os.kill(killed.pid, signal.SIGKILL)
    since = time.monotonic()

    async def taken_back() -> bool:
        return bool(await pool_of(stack_queue).fetchval("SELECT count(*) FROM tasks WHERE lease_lost > 0"))

    async def replaced() -> bool:
        return any(lane.id != killed.id for lane in await stack_queue.reader.lanes())

    await until(taken_back)
    print(f"its tasks are back after {time.monotonic() - since:.1f} s")
    await until(replaced)
    print(f"a replacement is at work after {time.monotonic() - since:.1f} s")
    summary = await run.end()
    assert (summary["lanes"], summary["lanes_died"]) == (2, 1)
    assert summary["settled_by_dead_lanes"] >= killed.settled
    states = await lane_runs()
    assert states["lane-1"].is_crashed()
    assert states["lane-2"].is_completed()


@pytest.mark.soak
async def test_an_outage_of_postgres_longer_than_the_lease_is_survived(
    stack: Stack, stack_queue: Queue
) -> None:
    run = Run(stack, stack_queue)
    await run.begin(lanes=2)
    os.kill(stack.state.processes["postgres"].pid, signal.SIGKILL)
    # Every lane loses its lease by its own clock, and so do those that begin again while Postgres is away.
    await asyncio.sleep(3 * LEASE_S)
    await asyncio.to_thread(stack.run, "up")
    summary = await run.end()
    assert summary["errors"] == [] or summary["lanes_died"] > 0
    assert await stack_queue.reader.lanes() == []
