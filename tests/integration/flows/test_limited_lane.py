"""What a lane does with limits: it keeps them full, and does not ask all the time while it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from organism_flows.blocks.queue import Limit, NewTask, Queue
from organism_flows.blocks.queue.db.statements import statement
from organism_flows.flows.lanes.lane import Lane
from tests.support.flows.running_lanes import TIMEOUT, running, submit, until_settled
from tests.support.scripted_organism import ScriptedOrganism

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue(database: str) -> AsyncIterator[Queue]:
    async with Queue(database, lease_s=30) as queue:
        yield queue


async def test_a_lane_fills_a_limit_again_as_soon_as_a_task_has_ended(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.POLL_S", 2.0 * TIMEOUT)
    await queue.operator.set_limit(Limit(name="few", kind="running", amount=3))
    await submit(queue, *["ok"] * 60)
    organism = ScriptedOrganism()
    lane = Lane(queue, organism)
    async with running(lane):
        await until_settled(lane, 60)
    assert max(len(call) for call in organism.calls) <= 3


async def test_a_task_that_goes_on_counts_alone_once_the_others_of_its_call_have_ended(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.windows.Window.call_size", lambda *_: 3)
    await queue.operator.set_limit(Limit(name="few", kind="running", amount=3))
    await submit(queue, *["last"] * 20)
    organism = ScriptedOrganism()
    lane = Lane(queue, organism)
    async with running(lane):
        await until_settled(lane, 18)
        assert len(organism.calls[0]) == 3
        organism.let_go.set()


async def test_a_full_limit_is_not_polled_and_holds_up_nobody_else(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def fetch(connection: asyncpg.Connection[Any], query: str, *arguments: Any, **options: Any) -> Any:
        asked.extend(name for name in ("limit_held",) if query == statement(name).text)
        return await whole(connection, query, *arguments, **options)

    whole = asyncpg.Connection.fetch
    await queue.operator.set_limit(Limit(name="two", kind="running", types=["hang"], amount=2))
    await submit(queue, *["hang"] * 50)
    organism = ScriptedOrganism()
    lane = Lane(queue, organism)
    async with running(lane):
        await asyncio.wait_for(organism.started.wait(), TIMEOUT)
        await submit(queue, *["ok"] * 100)
        await until_settled(lane, 100)
        await asyncio.wait_for(_full(queue), TIMEOUT)
        monkeypatch.setattr(asyncpg.Connection, "fetch", fetch)
        await asyncio.sleep(1.5)
        assert len(asked) < 10, "some times a second at most, not every 50 ms"
        assert (await queue.reader.counts())["running"] == 2
        organism.let_go.set()


async def _full(queue: Queue) -> None:
    while (await queue.reader.counts())["running"] != 2:
        await asyncio.sleep(0.01)


async def test_a_rate_is_kept_up_without_anything_that_wakes_the_lane(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.POLL_S", 2.0 * TIMEOUT)
    await queue.operator.set_limit(Limit(name="calls", kind="rate", amount=10, period_s=1))
    await submit(queue, *["ok"] * 25)
    lane = Lane(queue, ScriptedOrganism())
    async with running(lane):
        before = asyncio.get_running_loop().time()
        await until_settled(lane, 25)
    assert asyncio.get_running_loop().time() - before >= 1.4


async def test_what_has_expired_is_ended_by_a_lane_and_no_replica_sees_it(queue: Queue) -> None:
    [late] = await queue.submit([NewTask(type="ok", expires_in_s=0.001)])
    organism = ScriptedOrganism()
    async with running(Lane(queue, organism)):
        await asyncio.wait_for(_ended(queue, str(late)), TIMEOUT)
    assert (await queue.get(str(late))).error == "expired before it began"
    assert not organism.calls


async def _ended(queue: Queue, task_id: str) -> None:
    while (await queue.get(task_id)).status != "failed":
        await asyncio.sleep(0.01)


async def test_a_handler_that_says_not_now_is_called_again_when_its_key_opens(queue: Queue) -> None:
    [task] = await queue.submit([NewTask(type="busy", key="a")])
    organism = ScriptedOrganism()
    lane = Lane(queue, organism)
    async with running(lane):
        await until_settled(lane, 1)
    assert organism.runs[str(task)] == 2
    assert (lane.summary.completed, lane.summary.released, lane.summary.retried) == (1, 1, 0)
    assert (await queue.get(str(task))).snoozed == 1
