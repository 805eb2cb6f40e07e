"""What a lane claims and when, on a real Postgres: nobody waits for slower types, nothing is overlooked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from organism_flows.blocks.queue import Queue, TypePolicy
from organism_flows.flows.lanes import lease
from organism_flows.flows.lanes.lane import Lane
from organism_flows.flows.lanes.windows import FIRST_WINDOW
from tests.support.flows.running_lanes import (
    TIMEOUT,
    nothing_left_behind,
    running,
    submit,
    until_settled,
)
from tests.support.proxy import proxied
from tests.support.scripted_organism import ScriptedOrganism
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Queue]:
    # A lease that no machine is too slow for, and yet a heartbeat every 0.5 s.
    monkeypatch.setattr(lease, "RENEWALS_A_LEASE", 120)
    async with Queue(database, lease_s=60, backoff_base_s=0.02, backoff_cap_s=0.1) as queue:
        yield queue


@pytest.fixture
async def organism() -> ScriptedOrganism:
    return ScriptedOrganism()


async def test_quick_tasks_are_not_blocked_by_slow_ones(queue: Queue, organism: ScriptedOrganism) -> None:
    await submit(queue, *["slow"] * 100, domain="hang", priority=1)
    await submit(queue, *["ok"] * 200)
    lane = Lane(queue, organism)
    async with running(lane):
        await until_settled(lane, 200)
        counts = await queue.reader.counts()
        assert (counts["completed"], counts["running"]) == (200, FIRST_WINDOW), "not one slow task has ended"
        organism.let_go.set()
        await until_settled(lane, 300)
    await nothing_left_behind(queue)


async def test_a_backlog_of_one_domain_leaves_the_others_of_its_type_their_organs(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    await submit(queue, *["t"] * 2000, domain="hang", priority=1)
    lane = Lane(queue, organism)
    async with running(lane):
        await asyncio.wait_for(organism.started.wait(), TIMEOUT)
        await submit(queue, *["t"] * 200, domain="ok")
        await until_settled(lane, 200)
        counts = await queue.reader.counts()
        assert (counts["completed"], counts["running"]) == (200, FIRST_WINDOW), "not one slow task has ended"
        organism.let_go.set()


async def test_a_customer_with_a_backlog_leaves_the_others_their_turn(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    await submit(queue, *["ok"] * 3000, key="many")
    lane = Lane(queue, organism, tasks_in_flight=100)
    async with running(lane):
        await until_settled(lane, 100)
        mine = [(await submit(queue, "ok", key=f"customer {number}"))[0] for number in range(50)]
        newest = await pool_of(queue).fetchval("SELECT max(claim) FROM tasks")
        async with asyncio.timeout(TIMEOUT):
            while {(await queue.get(task_id)).status for task_id in mine} != {"completed"}:
                lane.signals.settled.clear()
                await lane.signals.settled.wait()
        assert lane.summary.settled < 2500, "the backlog had not been worked off by then"
    claims = [(await queue.get(task_id)).claim for task_id in mine]
    # A new line is found within a second; each of the few claims until then is of 100.
    assert max(claims) <= newest + 1500


async def test_a_new_type_is_found_while_there_is_no_room_for_the_others(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.POLL_S", 2.0 * TIMEOUT)
    await submit(queue, *["hang"] * 100)
    lane = Lane(queue, organism)
    async with running(lane):
        await asyncio.wait_for(organism.started.wait(), TIMEOUT)
        await submit(queue, "ok")
        await asyncio.wait_for(lane.signals.settled.wait(), TIMEOUT)
        organism.let_go.set()
    assert lane.summary.completed >= 1


async def test_what_arrives_while_calls_are_in_flight_is_claimed_together(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Until the call in flight has ended.
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.GATHER_S", 2.0 * TIMEOUT)
    await submit(queue, "hang")
    lane = Lane(queue, organism)
    async with running(lane):
        await asyncio.wait_for(organism.started.wait(), TIMEOUT)
        for _ in range(20):
            await submit(queue, "ok")
        assert lane.summary.claimed == 1
        organism.let_go.set()
        await until_settled(lane, 21)
    calls = [len(call) for call in organism.calls[1:]]
    assert sum(calls) == 20
    assert len(calls) <= 4, "one claim of what had arrived, split in four calls or fewer"


async def test_a_task_that_finds_a_lane_idle_is_claimed_at_once(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.GATHER_S", 2.0 * TIMEOUT)
    lane = Lane(queue, organism)
    async with running(lane):
        for number in range(1, 6):
            await asyncio.wait_for(lane.signals.idle.wait(), TIMEOUT)
            await submit(queue, "ok")
            await until_settled(lane, number)


async def test_what_is_urgent_overtakes_a_backlog(queue: Queue, organism: ScriptedOrganism) -> None:
    await submit(queue, *["ok"] * 2000)
    await submit(queue, "ok", priority=5)  # A line the lane knows; a new one is found within a second.
    lane = Lane(queue, organism, tasks_in_flight=10)
    async with running(lane):
        await until_settled(lane, 50)
        urgent = await submit(queue, *["ok"] * 20, priority=5)
        newest = await pool_of(queue).fetchval("SELECT max(claim) FROM tasks")
        async with asyncio.timeout(TIMEOUT):
            while {(await queue.get(task_id)).status for task_id in urgent} != {"completed"}:
                lane.signals.settled.clear()
                await lane.signals.settled.wait()
    claims = [(await queue.get(task_id)).claim for task_id in urgent]
    assert max(claims) <= newest + 50, "their own 20, and what a few claims of ten held already"


async def test_tasks_are_found_without_any_notification(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.POLL_S", 0.3)
    await submit(queue, "hang", *["ok"] * 3)
    lane = Lane(queue, organism)
    async with running(lane), pool_of(queue).acquire() as connection:
        await until_settled(lane, 3)
        # As rows that replication or a restore brings: no trigger fires. A known type, and a new one.
        await connection.execute("ALTER TABLE tasks DISABLE TRIGGER USER")
        await connection.execute("INSERT INTO tasks (type) VALUES ('ok')")
        await until_settled(lane, 4)
        await connection.execute("INSERT INTO tasks (type, domain) VALUES ('new', 'ok')")
        await until_settled(lane, 5)
        await connection.execute("ALTER TABLE tasks ENABLE TRIGGER USER")
        organism.let_go.set()


async def test_a_claim_whose_answer_is_lost_is_handed_back(
    database: str, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The notification does not come through either.
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.POLL_S", 0.3)
    monkeypatch.setattr(lease, "RENEWALS_A_LEASE", 60)
    async with (
        proxied(database) as proxy,
        Queue(database) as direct,
        Queue(proxy.dsn, lease_s=60) as queue,
    ):
        await submit(direct, "ok")
        lane = Lane(queue, organism)
        async with running(lane):
            await until_settled(lane, 1)
            await asyncio.wait_for(lane.signals.idle.wait(), TIMEOUT)
            proxy.hold_answers()
            [lost] = await submit(direct, "ok")
            async with asyncio.timeout(TIMEOUT):
                while (task := await direct.get(lost)).status != "running":
                    await asyncio.sleep(0.01)
            first_claim = task.claim
            proxy.cut()
            proxy.speak()
            await until_settled(lane, 2)
        assert organism.runs[lost] == 1
        task = await direct.get(lost)
        assert (task.status, task.attempts) == ("completed", 1)
        assert task.claim > first_claim, "claimed, handed back and claimed again"


async def test_a_lane_goes_on_by_itself_when_the_turn_of_a_key_has_come(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.POLL_S", 2.0 * TIMEOUT)
    await queue.operator.set_policy(TypePolicy(type="ok", affinity_s=0.3, affinity_keys=1))
    for key in ("a", "b", "c"):
        await submit(queue, *["ok"] * 20, key=key)
    lane = Lane(queue, organism)
    async with running(lane):
        await until_settled(lane, 60)
    keys = [set(call.keys.values()) for call in organism.calls]
    assert all(len(of_call) == 1 for of_call in keys), "a call is for one model"
