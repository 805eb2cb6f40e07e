"""A lane that is to leave waits for what runs, one that is to stop does not; who loses a claim stops it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from organism_flows.blocks.queue import NewTask, Queue, TypePolicy
from organism_flows.blocks.queue.stores.operator import Operator
from organism_flows.flows.lanes import calls, lane, lease, windows
from organism_flows.flows.lanes.lane import Lane
from tests.support.flows.running_lanes import TIMEOUT, nothing_left_behind, running, submit
from tests.support.scripted_organism import ScriptedOrganism
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "BALANCE_S", 0.02)


@pytest.fixture
async def queue(database: str) -> AsyncIterator[Queue]:
    # A lease that no machine is too slow for.
    async with Queue(database, lease_s=60, backoff_base_s=0.02, backoff_cap_s=0.1) as queue:
        yield queue


@pytest.fixture
async def organism() -> ScriptedOrganism:
    return ScriptedOrganism()


class SetClock:
    """Stands in for the module `time` where a lane measures how long tasks wait."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


async def begun(queue: Queue, task_id: str) -> bool:
    task = await queue.get(task_id)
    return task.begun_at is not None and task.locked_at is not None and task.begun_at >= task.locked_at


@pytest.mark.parametrize("how", ["time", "asked", "told"])
async def test_a_lane_that_leaves_keeps_its_lease_until_its_calls_have_ended(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(lease, "RENEWALS_A_LEASE", 120)  # one in 0.5 s
    [long] = await submit(queue, "begin", max_attempts=1)

    class Leaving(Lane):
        async def _leave_after(self, seconds: float) -> None:
            await until(lambda: begun(queue, long))
            await super()._leave_after(seconds)

    leaving = Leaving(queue, organism, run="a run", grace_s=0.01, max_seconds=0.3 if how == "time" else None)
    async with running(leaving) as run:
        await until(lambda: begun(queue, long))
        match how:
            case "asked":
                assert await queue.operator.request_leave("a run") == 1
            case "told":
                leaving.leave()
        await until(lambda: leaving._claims.leaving.is_set())
        [later] = await submit(queue, "ok")
        renewals: set[datetime] = set()

        async def renewed_while_leaving() -> bool:
            [row] = await queue.reader.lanes()
            assert row.live
            if row.leaving_at is not None:
                assert not row.claiming
                renewals.add(row.renewed_at)
            return len(renewals) > 3

        await until(renewed_while_leaving)
        assert not run.done()
        organism.let_go.set()
        summary = await asyncio.wait_for(run, TIMEOUT)
    assert summary.completed == 1
    task = await queue.get(long)
    assert (task.status, task.attempts, task.interrupted, task.history) == ("completed", 1, 0, [])
    assert (await queue.get(later)).status == "queued", "a lane that leaves must not claim"
    await nothing_left_behind(queue)


async def test_a_lane_that_leaves_hands_back_what_no_handler_has_begun_with(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [long, waiting] = await submit(queue, "begin", "wait", max_attempts=1)
    leaving = Lane(queue, organism)
    async with running(leaving) as run:
        await until(lambda: begun(queue, long))
        leaving.leave()
        await until(lambda: _status_is(queue, waiting, "queued"))
        task = await queue.get(waiting)
        assert (task.attempts, task.interrupted, task.history) == (0, 0, []), (
            "as if it had never been claimed"
        )
        assert not run.done()
        organism.let_go.set()
        await asyncio.wait_for(run, TIMEOUT)
    assert (await queue.get(long)).status == "completed"


async def test_a_lane_that_leaves_can_still_be_stopped(queue: Queue, organism: ScriptedOrganism) -> None:
    [long] = await submit(queue, "begin", max_attempts=1)
    leaving = Lane(queue, organism, run="a run", grace_s=0.01)
    async with running(leaving) as run:
        await until(lambda: begun(queue, long))
        leaving.leave()
        await asyncio.sleep(0.1)
        assert not run.done()
        await queue.operator.request_stop("a run")
        await asyncio.wait_for(run, TIMEOUT)
    task = await queue.get(long)
    assert (task.status, task.attempts, task.interrupted) == ("queued", 0, 1)
    assert [a.cause for a in task.history] == ["interrupted"]
    assert organism.closed == len(organism.calls), "its handler is stopped"
    await nothing_left_behind(queue)


@pytest.mark.parametrize("ask", [Operator.request_stop, Operator.request_leave])
async def test_a_lane_learns_at_once_what_it_is_asked(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    """Its grace is counted from then, and whoever stops it waits no longer than that."""
    monkeypatch.setattr(lease, "RENEWALS_A_LEASE", 0.01)  # the next renewal is an hour away
    [task] = await submit(queue, "begin")
    asked = Lane(queue, organism, run="a run", grace_s=0.0)
    async with running(asked) as run:
        await until(lambda: begun(queue, task))
        await asked._notified.listening.wait()
        await ask(queue.operator, "a run")
        await asyncio.wait_for(asked._claims.leaving.wait(), TIMEOUT)
        organism.let_go.set()
        await asyncio.wait_for(run, TIMEOUT)


async def test_a_process_that_ends_cancels_everything_and_the_history_says_so(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    """As `asyncio.run` does on its way out: all tasks at once, while the lane cuts its calls off too."""
    ids = await submit(queue, *["begin"] * 5)
    stopped = Lane(queue, organism, batch_size=1)
    async with running(stopped) as run:
        await until(lambda: _all_are(queue, ids, "running"))
        await until(lambda: len(organism.calls) == 5)
        for task in [run, *stopped._calls.running]:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(run, TIMEOUT)
    for task_id in ids:
        row = await queue.get(task_id)
        assert (row.status, row.attempts) == ("queued", 0)
        assert [a.cause for a in row.history] == ["interrupted"]
    await nothing_left_behind(queue)


async def test_a_task_may_be_cancelled_while_its_lane_leaves(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [long] = await submit(queue, "long")
    leaving = Lane(queue, organism)
    async with running(leaving) as run:
        await asyncio.wait_for(organism.started.wait(), TIMEOUT)
        leaving.leave()
        await queue.operator.cancel([UUID(long)])
        await asyncio.wait_for(run, TIMEOUT)
    assert (await queue.get(long)).status == "cancelled"


async def test_a_cancel_that_no_message_carries_gives_up_the_call(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "POLL_S", 0.05)
    deaf, beside = await submit(queue, "deaf", "hang")
    async with running(Lane(queue, organism)):
        await until(lambda: begun(queue, deaf))
        await queue.operator.cancel([UUID(deaf)])
        await until(lambda: _status_is(queue, deaf, "cancelled"))
        assert (await queue.get(beside)).status == "running", "a call of its own"
        organism.let_go.set()
        await until(lambda: _status_is(queue, beside, "completed"))


async def test_one_task_that_waits_for_long_does_not_slow_the_short_ones_of_its_type(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its earlier run, which was told to stop, does not end."""
    # Calls begin by the real clock, which is ahead of this one: none takes long enough to narrow the window.
    clock = SetClock()
    monkeypatch.setattr(calls, "time", clock)
    monkeypatch.setattr(windows, "time", clock)
    [parked] = await submit(queue, "t", domain="wait")
    busy = Lane(queue, organism)
    async with running(busy):
        await until(lambda: [call for call in busy._calls._open if call.accepted <= clock.now])
        size = busy._windows.window("t").size
        for _ in range(4):
            clock.now += calls.WAITING_S / 2
            ids = await submit(queue, *["t"] * 20, domain="ok")
            await until(partial(_all_are, queue, ids, "completed"))
        await until(lambda: organism.recalled)  # it is handed back, for another replica may have room
        assert busy._windows.window("t").size >= size
        organism.let_go.set()
        await until(lambda: _status_is(queue, parked, "completed"))


async def test_interruptions_are_bounded_where_the_type_says_so(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    await queue.operator.set_policy(TypePolicy(type="begin", max_interruptions=2))
    [long] = await submit(queue, "begin")
    for _ in range(2):
        stopped = Lane(queue, organism, grace_s=0.0)
        async with running(stopped) as run:
            await until(lambda: begun(queue, long))
            stopped.stop()
            summary = await asyncio.wait_for(run, TIMEOUT)
    task = await queue.get(long)
    assert (task.status, task.interrupted, task.attempts) == ("failed", 2, 0)
    assert "interrupted 2 times before it ended" in (task.error or "")
    assert summary.failed == 1


async def test_whoever_reaps_has_the_runs_of_the_dead_lane_stopped(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [orphan] = await submit(queue, "ok")
    await queue.leases.register("killed")
    batch = await queue.claims.claim("killed", 1)
    await pool_of(queue).execute("UPDATE lanes SET lease_until = queue_now() - interval '1 s'")
    async with running(Lane(queue, organism)):
        await until(lambda: _status_is(queue, orphan, "completed"))
        await until(lambda: {orphan: batch.claims[0]} in organism.stopped)


async def test_whoever_claims_what_another_lost_has_its_runs_stopped(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    """A reaper that is no lane, as the watchdog, cannot reach replicas."""
    [orphan] = await submit(queue, "ok")
    await queue.leases.register("killed")
    await queue.claims.claim("killed", 1)
    await queue.leases.deregister("killed")
    await queue.leases.reap()
    async with running(Lane(queue, organism)):
        await until(lambda: _status_is(queue, orphan, "completed"))
    task = await queue.get(orphan)
    assert {orphan: task.claim - 1} in organism.stopped


async def test_what_waits_for_too_long_is_handed_back_and_tried_again(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "WAITING_S", 0.05)
    ids = await submit(queue, *["wait"] * 3)
    balanced = Lane(queue, organism)
    async with running(balanced):
        await until(lambda: len(organism.recalled) == 3)
        await until(lambda: _all_are(queue, ids, "queued"))
        assert balanced._windows.window("wait").size == 1, "it tries one at a time while nothing begins"
        organism.let_go.set()
        await until(lambda: _all_are(queue, ids, "completed"))
    assert {task.attempts for task in [await queue.get(i) for i in ids]} == {1}


async def test_a_task_that_takes_every_replica_down_comes_to_an_end(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [doomed] = await submit(queue, "doom", max_attempts=2)
    await asyncio.wait_for(Lane(queue, organism, until_empty=True).run(), TIMEOUT)
    task = await queue.get(doomed)
    assert (task.status, task.attempts) == ("failed", 2)
    causes = [a.cause for a in task.history]
    assert causes == ["replica_lost"] * calls.SUSPICION_LIMIT + ["failed"] * 2


async def _status_is(queue: Queue, task_id: str, status: str) -> bool:
    return (await queue.get(task_id)).status == status


async def _all_are(queue: Queue, ids: list[str], status: str) -> bool:
    return {(await queue.get(i)).status for i in ids} == {status}


async def test_calls_that_wait_for_a_replica_to_start_do_not_narrow_the_window(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "WAITING_S", 0.01)
    organism.taking.clear()
    await queue.submit([NewTask(type="ok")] * 200)
    lane = Lane(queue, organism)
    async with running(lane):
        await until(lambda: len(organism.calls) >= 4)
        held = sum(map(len, organism.calls))
        await asyncio.sleep(0.05)  # longer than a task may wait on a replica
        lane._calls.balance()
        assert lane._windows.window("ok").size >= held, "no replica has said that it has no room"
        assert not organism.recalled
        organism.taking.set()
        await until(lambda: lane.summary.completed == 200)


async def test_a_lane_that_leaves_within_a_time_hands_back_what_does_not(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [long] = await submit(queue, "begin", max_attempts=1)
    leaving = Lane(queue, organism)
    async with running(leaving) as run:
        await until(lambda: begun(queue, long))
        leaving.leave(within_s=600)
        await until(lambda: organism.acknowledged)
        [asked] = organism.acknowledged.values()
        assert asked.leave_within_s == pytest.approx(600, abs=60), "its handler is asked to leave"
        assert not run.done()
        leaving.leave(within_s=0)
        await asyncio.wait_for(run, TIMEOUT)
    task = await queue.get(long)
    assert (task.status, task.attempts) == ("queued", 0)
    assert [a.cause for a in task.history] == ["interrupted"]
    assert organism.closed == len(organism.calls), "its handler is stopped"
    await nothing_left_behind(queue)


async def test_nobody_is_to_blame_for_the_death_of_a_replica_that_is_taken_down(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [task_id] = await submit(queue, "taken down", max_attempts=1)
    await asyncio.wait_for(Lane(queue, organism, until_empty=True).run(), TIMEOUT)
    task = await queue.get(task_id)
    assert (task.status, task.attempts, task.result) == ("completed", 1, 0), "it was no suspect"
    [ended] = task.history
    assert (ended.cause, ended.error) == ("interrupted", "the replica died while it was being taken down")
