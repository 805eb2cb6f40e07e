"""A lane on a real Postgres and a scripted organism: promises 1, 2, 4, 5, 6 and 7, without Prefect or Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from uuid import UUID

import pytest

from organism_flows.blocks.errors import LaneLost
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.models.operations import PausedKind
from organism_flows.flows.lanes import lease
from organism_flows.flows.lanes.calls import SUSPICION_LIMIT
from organism_flows.flows.lanes.lane import Lane
from tests.support.flows.running_lanes import TIMEOUT, nothing_left_behind, running, submit
from tests.support.scripted_organism import ScriptedOrganism
from tests.support.sql import pool_of
from tests.support.stack import until

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


async def test_the_sums_are_right(queue: Queue, organism: ScriptedOrganism) -> None:
    await submit(queue, *["ok"] * 57, *["fail"] * 2, "reject", max_attempts=3)
    lane = Lane(queue, organism, batch_size=10, until_empty=True)
    summary = await asyncio.wait_for(lane.run(), TIMEOUT)
    counts = await queue.reader.counts()
    assert (counts["completed"], counts["failed"]) == (57, 3)
    assert (summary.completed, summary.failed, summary.retried) == (57, 3, 4)
    assert summary.claimed == summary.settled + summary.released + summary.stale == 64
    await nothing_left_behind(queue)


async def test_permanent_errors_fail_at_once_and_others_after_their_attempts(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [failing, rejected] = await submit(queue, "fail", "reject", max_attempts=3)
    await asyncio.wait_for(Lane(queue, organism, until_empty=True).run(), TIMEOUT)
    assert organism.runs == {failing: 3, rejected: 1}
    task = await queue.get(failing)
    assert (task.status, task.attempts, task.error) == ("failed", 3, "ValueError: boom")
    assert [a.cause for a in task.history] == ["failed"] * 3


async def test_a_replica_is_charged_to_its_killer_and_the_neighbours_complete_uncharged(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    tasks = [NewTask(type="ok", domain="kill" if n == 5 else None, max_attempts=2) for n in range(11)]
    ids = [str(i) for i in await queue.submit(tasks)]
    await asyncio.wait_for(Lane(queue, organism, until_empty=True).run(), TIMEOUT)
    rows = [await queue.get(i) for i in ids]
    killer = rows.pop(5)
    assert {row.status for row in rows} == {"completed"}
    assert {row.attempts for row in rows} == {1}
    assert {row.suspicion for row in rows} == {0}
    assert (killer.status, killer.attempts) == ("failed", 2)
    assert [a.cause for a in killer.history][-2:] == ["failed", "failed"]
    assert [a.cause for a in killer.history[:-2]] == ["replica_lost"]
    assert "process died" in (killer.error or "")
    assert {a.cause for row in rows for a in row.history} <= {"replica_lost"}
    await nothing_left_behind(queue)


async def test_tasks_are_not_charged_for_an_organism_that_is_away(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [task_id] = await submit(queue, "ok", max_attempts=1)
    organism.away = True
    lane = Lane(queue, organism, until_empty=True)
    async with running(lane) as run:
        await asyncio.wait_for(organism.refused.wait(), TIMEOUT)
        organism.away = False
        await asyncio.wait_for(run, TIMEOUT)
    task = await queue.get(task_id)
    assert (task.status, task.attempts) == ("completed", 1)
    assert {a.cause for a in task.history} == {"unavailable"}


async def test_stopping_lets_calls_in_flight_finish(queue: Queue, organism: ScriptedOrganism) -> None:
    await submit(queue, "hang")
    lane = Lane(queue, organism)
    async with running(lane) as run:
        await asyncio.wait_for(organism.started.wait(), TIMEOUT)
        lane.stop()
        await submit(queue, "ok")
        organism.let_go.set()
        summary = await asyncio.wait_for(run, TIMEOUT)
    assert summary.completed == 1
    assert (await queue.reader.counts())["queued"] == 1, "a stopping lane must not claim"
    await nothing_left_behind(queue)


@pytest.mark.parametrize("how", ["grace", "cancel", "request"])
async def test_interrupted_is_not_failed(queue: Queue, organism: ScriptedOrganism, how: str) -> None:
    [done] = await submit(queue, "ok", max_attempts=1)
    [hanging] = await submit(queue, "hang", max_attempts=1)
    lane = Lane(queue, organism, run="a run", grace_s=0.05)
    async with running(lane) as run:
        await asyncio.wait_for(lane.signals.settled.wait(), TIMEOUT)
        while not organism.runs[hanging]:
            await asyncio.sleep(0.01)
        match how:
            case "grace":
                lane.stop()
            case "cancel":
                run.cancel()
            case "request":
                await queue.operator.request_stop("a run")
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(run, TIMEOUT)
    assert (await queue.get(done)).status == "completed"
    task = await queue.get(hanging)
    assert (task.status, task.attempts) == ("queued", 0)
    assert [a.cause for a in task.history] == ["interrupted"]
    assert organism.closed == len(organism.calls), "the call must be cancelled on the replica"
    await nothing_left_behind(queue)


async def test_a_live_lane_never_loses_a_long_task(queue: Queue, organism: ScriptedOrganism) -> None:
    [task_id] = await submit(queue, "hang")
    async with running(Lane(queue, organism)):
        await asyncio.wait_for(organism.started.wait(), TIMEOUT)
        renewals: set[datetime] = set()

        async def renewed() -> bool:
            [row] = await queue.reader.lanes()
            renewals.add(row.renewed_at)
            return len(renewals) > 3

        await until(renewed)
        organism.let_go.set()
        while (await queue.get(task_id)).status != "completed":
            await asyncio.sleep(0.01)
    assert (await queue.get(task_id)).lease_lost == 0


async def test_a_lane_that_lost_its_lease_writes_nothing_more(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [task_id] = await submit(queue, "hang")
    lane = Lane(queue, organism)
    async with running(lane) as run:
        await asyncio.wait_for(organism.started.wait(), TIMEOUT)
        await queue.leases.deregister(lane.id)
        with pytest.raises(LaneLost, match="taken back"):
            await asyncio.wait_for(run, TIMEOUT)
    assert organism.closed == 1
    await queue.leases.reap()
    task = await queue.get(task_id)
    assert (task.status, task.attempts, task.lease_lost) == ("retry", 0, 1)


async def test_a_silent_lane_loses_its_tasks_to_the_next(queue: Queue, organism: ScriptedOrganism) -> None:
    [task_id] = await submit(queue, "ok")
    await queue.leases.register("killed")
    assert len(await queue.claims.claim("killed", 1)) == 1
    await pool_of(queue).execute("UPDATE lanes SET lease_until = queue_now() - interval '1 s'")
    summary = await asyncio.wait_for(Lane(queue, organism, until_empty=True).run(), TIMEOUT)
    assert summary.completed == 1
    assert [a.cause for a in (await queue.get(task_id)).history] == ["lease_lost"]


async def test_an_outcome_that_comes_too_late_is_counted_stale(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [task_id] = await submit(queue, "hang")
    lane = Lane(queue, organism)
    async with running(lane) as run:
        await asyncio.wait_for(organism.started.wait(), TIMEOUT)
        await pool_of(queue).execute("UPDATE tasks SET status = 'cancelled' WHERE id = $1", task_id)
        organism.let_go.set()
        await asyncio.wait_for(lane.signals.settled.wait(), TIMEOUT)
        lane.stop()
        summary = await asyncio.wait_for(run, TIMEOUT)
    assert (summary.stale, summary.completed) == (1, 0)
    assert (await queue.get(task_id)).status == "cancelled"


async def test_broken_connections_are_survived(queue: Queue, organism: ScriptedOrganism) -> None:
    await submit(queue, *["ok"] * 200)
    lane = Lane(queue, organism, batch_size=5, until_empty=True)
    async with running(lane) as run:
        for _ in range(3):
            lane.signals.settled.clear()
            await asyncio.wait_for(lane.signals.settled.wait(), TIMEOUT)
            with suppress(Exception):
                await pool_of(queue).execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database()"
                )
        await asyncio.wait_for(run, TIMEOUT)
    counts = await queue.reader.counts()
    assert (counts["completed"], counts["running"]) == (200, 0)


async def test_a_mistake_of_ours_ends_the_lane_and_keeps_the_task(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [task_id] = await submit(queue, "bug")
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        await asyncio.wait_for(Lane(queue, organism).run(), TIMEOUT)
    assert (await queue.get(task_id)).status == "queued"
    await nothing_left_behind(queue)


def _hears(lane: Lane) -> bool:
    # When it begins to listen it looks once, since something may have come before.
    return (
        lane._notified.listening.is_set() and not lane._claims._wake.is_set() and lane.signals.idle.is_set()
    )


async def test_an_insert_wakes_an_idle_lane(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.POLL_S", 2.0 * TIMEOUT)
    lane = Lane(queue, organism)
    async with running(lane):
        await until(lambda: _hears(lane))
        await pool_of(queue).execute("INSERT INTO tasks (type) VALUES ('ok')")
        # Below the poll interval: it was the notification.
        await asyncio.wait_for(lane.signals.settled.wait(), TIMEOUT)


async def test_a_scheduled_task_starts_when_it_is_due(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.POLL_S", 2.0 * TIMEOUT)
    lane = Lane(queue, organism)
    async with running(lane):
        await until(lambda: _hears(lane))
        await pool_of(queue).execute(
            "INSERT INTO tasks (type, run_after) VALUES ('ok', now() + interval '0.3 s')"
        )
        await asyncio.wait_for(lane.signals.settled.wait(), TIMEOUT)


async def test_it_stops_by_itself_after_its_time(queue: Queue, organism: ScriptedOrganism) -> None:
    summary = await asyncio.wait_for(Lane(queue, organism, max_seconds=0.1).run(), TIMEOUT)
    assert summary.claimed == 0


async def test_a_running_task_is_cancelled_through_its_handler(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [running_id, waiting_id] = await submit(queue, "long", "ok")
    await queue.operator.pause("type", "ok")
    lane = Lane(queue, organism)
    async with running(lane):
        await asyncio.wait_for(organism.started.wait(), TIMEOUT)
        done = await queue.operator.cancel([UUID(running_id), UUID(waiting_id)])
        assert ([str(i) for i in done.requested], [str(i) for i in done.cancelled]) == (
            [running_id],
            [waiting_id],
        )
        await asyncio.wait_for(lane.signals.settled.wait(), TIMEOUT)
    assert (await queue.get(running_id)).status == (await queue.get(waiting_id)).status == "cancelled"
    assert lane.summary.cancelled == 1
    await nothing_left_behind(queue)


async def test_a_paused_type_and_domain_wait_until_resumed(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.POLL_S", 2.0 * TIMEOUT)
    await queue.operator.pause("type", "ok")
    await queue.operator.pause("domain", "ok")
    ids = await submit(queue, "ok") + await submit(queue, "anything", domain="ok")
    assert (await asyncio.wait_for(Lane(queue, organism, until_empty=True).run(), TIMEOUT)).claimed == 0
    lane = Lane(queue, organism)
    async with running(lane):
        await asyncio.wait_for(lane.signals.idle.wait(), TIMEOUT)
        kinds: tuple[PausedKind, ...] = ("type", "domain")
        for number, kind in enumerate(kinds):
            lane.signals.settled.clear()
            assert await queue.operator.resume(kind, "ok")
            # Woken: before the poll.
            await asyncio.wait_for(lane.signals.settled.wait(), TIMEOUT)
            assert (await queue.get(ids[number])).status == "completed"


async def test_what_a_stopping_replica_hands_back_is_not_charged(
    queue: Queue, organism: ScriptedOrganism
) -> None:
    [task_id] = await submit(queue, "interrupt", max_attempts=1)
    summary = await asyncio.wait_for(Lane(queue, organism, until_empty=True).run(), TIMEOUT)
    task = await queue.get(task_id)
    assert (task.status, task.attempts, organism.runs[task_id]) == ("completed", 1, 2)
    assert [a.cause for a in task.history] == ["interrupted"]
    assert (summary.completed, summary.released, summary.claimed) == (1, 1, 2)


async def test_a_replica_that_lives_and_reports_nothing_is_given_up(
    queue: Queue, organism: ScriptedOrganism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.calls.PATIENCE_S", 0.1)
    silent, ok = await submit(queue, "silent", "ok", max_attempts=1)
    summary = await asyncio.wait_for(Lane(queue, organism, until_empty=True).run(), TIMEOUT)
    assert (summary.completed, summary.failed) == (1, 1)
    assert (await queue.get(ok)).status == "completed"
    task = await queue.get(silent)
    assert "6 replicas were lost with it on them; the last: a replica reported nothing" in (task.error or "")
    assert [a.cause for a in task.history] == ["replica_lost"] * SUSPICION_LIMIT + ["failed"]
    [claim] = {call.claims[0] for call in organism.calls if call.ids == [silent]} & {task.claim}
    assert {silent: claim} in organism.stopped, "it may still run there"
    assert organism.closed == len(organism.calls), "every call was cancelled on the replica"
