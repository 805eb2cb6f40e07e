"""One kill -9 in the middle of a run, and what exactly follows; `test_chaos` kills everything at random."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from tests.support.history import check_history
from tests.support.sql import pool_of
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack, pytest.mark.chaos]
DONE, HELD = 300, 8
"""The replica runs twice as many at a time as are held, so that the others get through."""


class Run:
    """A dispatch run of which all is done but some tasks that are in flight until it may end."""

    def __init__(self, stack: Stack, queue: Queue) -> None:
        self.stack = stack
        self.queue = queue
        self.evidence = stack.home / f"evidence-{uuid4().hex}"
        self.evidence.touch()
        self.gate = stack.home / f"gate-{uuid4().hex}"

    async def begin(self, *, lanes: int = 2) -> None:
        params = {"seconds": 0.01, "file": str(self.evidence)}
        done = [NewTask(type="evidence", params=params) for _ in range(DONE)]
        held = [NewTask(type="evidence", params={**params, "until": str(self.gate)}) for _ in range(HELD)]
        self.ids = [str(i) for i in await self.queue.submit(held + done)]
        self.process = self.stack.start("dispatch", "--until-empty", "--lanes", str(lanes), "--json")
        await until(self.held)

    async def held(self) -> bool:
        counts = await self.queue.reader.counts()
        return counts["completed"] == DONE and counts["running"] == HELD

    async def end(self) -> dict[str, Any]:
        self.gate.touch()
        summary: dict[str, Any] = self.stack.finish(self.process)
        await check_history(self.queue, self.ids, self.evidence)
        assert (await self.queue.reader.counts())["completed"] == DONE + HELD
        return summary

    def replica(self) -> int:
        """Process in which the last task ran."""
        return int(self.evidence.read_text().split()[-1])


@pytest.fixture
async def run(stack: Stack, stack_queue: Queue) -> Run:
    return Run(stack, stack_queue)


async def test_a_killed_lane_is_replaced_and_its_tasks_come_back(run: Run) -> None:
    await run.begin()
    holder = await pool_of(run.queue).fetchval("SELECT locked_by FROM tasks WHERE status = 'running' LIMIT 1")
    [pid] = [lane.pid for lane in await run.queue.reader.lanes() if lane.id == holder]
    os.kill(pid, signal.SIGKILL)
    summary = await run.end()
    assert summary["lanes_died"] == 1
    assert summary["lanes"] == 3
    lost = await pool_of(run.queue).fetchval("SELECT count(*) FROM task_attempts WHERE cause = 'lease_lost'")
    assert lost > 0
    assert await pool_of(run.queue).fetchval("SELECT max(attempts) FROM tasks") == 1, (
        "a lost lane is not charged"
    )


async def test_a_killed_replica_is_replaced_and_nobody_is_charged(run: Run) -> None:
    await run.begin()
    os.kill(run.replica(), signal.SIGKILL)
    await run.end()
    assert await pool_of(run.queue).fetchval("SELECT max(attempts) FROM tasks") == 1
    causes = {
        row["cause"] for row in await pool_of(run.queue).fetch("SELECT DISTINCT cause FROM task_attempts")
    }
    assert "replica_lost" in causes
    assert causes <= {"replica_lost", "unavailable"}


@pytest.mark.soak
async def test_the_task_that_kills_its_replica_is_found_and_its_neighbours_complete(
    stack: Stack, stack_queue: Queue
) -> None:
    evidence = stack.home / f"evidence-{uuid4().hex}"
    evidence.touch()
    harmless = NewTask(type="evidence", params={"seconds": 0.2, "file": str(evidence)})
    killer = NewTask(type="killer", max_attempts=2)
    ids = [str(i) for i in await stack_queue.submit([harmless] * 10 + [killer] + [harmless] * 10)]
    stack.run("dispatch", "--until-empty")
    await check_history(stack_queue, ids, evidence)
    found = await stack_queue.get(ids[10])
    assert (found.status, found.attempts) == ("failed", 2)
    # First lost with its neighbours and uncharged, then alone.
    causes = [a.cause for a in found.history]
    assert causes[0] == "replica_lost"
    assert causes[-2:] == ["failed", "failed"]
    assert set(causes[:-2]) == {"replica_lost"}
    rest = await pool_of(stack_queue).fetch(
        "SELECT status::text, attempts FROM tasks WHERE type = 'evidence'"
    )
    assert {(row["status"], row["attempts"]) for row in rest} == {("completed", 1)}


async def test_terminated_is_not_failed(stack: Stack, stack_queue: Queue) -> None:
    """Promise 7 through the whole stack: SIGTERM to the flow's process."""
    never = stack.home / f"never-{uuid4().hex}"
    [task_id] = await stack_queue.submit([NewTask(type="slow", params={"until": str(never)}, max_attempts=1)])
    process = stack.start("dispatch", "--json")
    await until(lambda: _running(stack_queue))
    process.send_signal(signal.SIGTERM)
    # What is in flight finishes within the grace period; this one does when the file appears.
    Path(never).touch()
    stack.finish(process, code=130)
    assert (await stack_queue.get(str(task_id))).status == "completed"
    assert await stack_queue.reader.lanes() == []


async def _running(queue: Queue) -> bool:
    return (await queue.reader.counts())["running"] > 0
