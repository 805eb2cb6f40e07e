"""Prefect's server is away for a while: tasks keep flowing, nothing is lost, and afterwards it shows."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import psutil
import pytest

from organism_flows.blocks.queue import NewTask, Queue
from tests.support.flows.runs import dispatch_runs, lane_runs
from tests.support.history import check_history
from tests.support.sql import pool_of
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack]
GAP_S = 0.05
"""Between two tasks of the trickle."""
AWAY_S = 180.0
DURING = 30
"""Tasks to be completed while the server is away."""


class Trickle:
    """Tasks added one after the other, each leaving evidence of its run."""

    def __init__(self, stack: Stack, queue: Queue) -> None:
        self.queue = queue
        self.evidence = stack.home / f"evidence-{uuid4().hex}"
        self.evidence.touch()
        self.ids: list[str] = []
        self.over = asyncio.Event()

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        # A task that backs off: a run until empty does not end between two others.
        guard = await pool_of(self.queue).fetchval(
            "INSERT INTO tasks (type, status, run_after) "
            "VALUES ('evidence', 'retry', now() + interval '1 hour') RETURNING id"
        )
        adding = asyncio.create_task(self._add())
        try:
            yield
        finally:
            # Not cut off between a commit and our knowing of it.
            self.over.set()
            await adding
            await pool_of(self.queue).execute("DELETE FROM tasks WHERE id = $1", guard)

    async def _add(self) -> None:
        task = NewTask(type="evidence", params={"seconds": 0.0, "file": str(self.evidence)})
        while not self.over.is_set():
            self.ids += [str(i) for i in await self.queue.submit([task])]
            await asyncio.sleep(GAP_S)

    async def completed(self) -> int:
        return (await self.queue.reader.counts())["completed"]

    async def flows_on(self, tasks: int) -> None:
        """Wait until so many more are completed."""
        before = await self.completed()

        async def more() -> bool:
            return await self.completed() >= before + tasks

        await until(more)

    async def check(self) -> None:
        await check_history(self.queue, self.ids, self.evidence)
        assert (await self.queue.reader.counts())["completed"] == len(self.ids)


def server(stack: Stack) -> list[psutil.Process]:
    """The processes of the Prefect server."""
    parent = psutil.Process(stack.state.processes["prefect"].pid)
    return [parent, *parent.children(recursive=True)]


@pytest.mark.soak
async def test_a_frozen_server_holds_up_nothing(stack: Stack, stack_queue: Queue) -> None:
    trickle = Trickle(stack, stack_queue)
    async with trickle.flowing():
        process = stack.start("dispatch", "--until-empty", "--json")
        await trickle.flows_on(1)
        frozen = server(stack)
        for part in frozen:
            part.suspend()
        try:
            await trickle.flows_on(DURING)
            # Not even the replacement of a lane.
            [killed] = await stack_queue.reader.lanes()
            os.kill(killed.pid, signal.SIGKILL)

            async def replaced() -> bool:
                return any(lane.id != killed.id for lane in await stack_queue.reader.lanes())

            await until(replaced)
            await trickle.flows_on(DURING)
        finally:
            for part in frozen:
                part.resume()
        await trickle.flows_on(1)
    summary = await asyncio.to_thread(stack.finish, process)
    assert (summary["lanes"], summary["lanes_died"]) == (2, 1)
    await trickle.check()
    run = (await dispatch_runs())[-1]
    assert run.state.is_completed()
    assert "1 lanes died" in run.state.message

    async def told() -> bool:
        names = {name: state.name for name, state in (await lane_runs()).items()}
        return names == {"lane-1": "Crashed", "lane-2": "Completed"}

    await until(told)  # through events, some of them late


@pytest.mark.soak
async def test_a_killed_server_that_is_away_for_minutes(stack: Stack, stack_queue: Queue) -> None:
    trickle = Trickle(stack, stack_queue)
    async with trickle.flowing():
        process = stack.start("dispatch", "--lanes", "2", "--until-empty", "--json")
        ends_meanwhile = stack.start("dispatch", "--max-seconds", "40", "--json")

        async def all_lanes() -> bool:
            return len(await stack_queue.reader.lanes()) == 3

        await until(all_lanes)
        for part in server(stack):
            part.kill()
        until_then = time.monotonic() + AWAY_S
        while time.monotonic() < until_then:
            before = await trickle.completed()
            await asyncio.sleep(10)
            assert await trickle.completed() > before
        assert len(await stack_queue.reader.lanes()) == 2
        assert ends_meanwhile.poll() is None, "it waits to say how it ended"
        await asyncio.to_thread(stack.run, "up")
        await asyncio.to_thread(stack.finish, ends_meanwhile)
        await trickle.flows_on(DURING)
    summary = await asyncio.to_thread(stack.finish, process)
    assert (summary["lanes"], summary["lanes_died"]) == (2, 0)
    await trickle.check()
    newest = (await dispatch_runs())[-2:]
    assert [run.state.name for run in newest] == ["Completed"] * 2
