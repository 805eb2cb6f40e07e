"""Two sessions at the same row, step by step: who waits, who wins, and that nobody wins twice."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import uuid4

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.db.statements import SQL
from organism_flows.blocks.queue.stores.claiming.claim_lines import REWIND_S
from organism_flows.blocks.sql_statement import Statement, read_sql
from tests.support.clock import START, advance, set_clock
from tests.support.queue.sessions import (
    blocked_on_a_row,
    claim_in,
    completed,
    completion,
    expired_claim,
    open_transaction,
    release,
)
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio

REAP = {"max_leases": 10, "strays": True}


def edited(name: str, right: str, wrong: str) -> Statement:
    """A statement with one edit."""
    text = read_sql(SQL, name)
    assert right in text
    return Statement.of(text.replace(right, wrong))


async def test_two_claimers_never_share_a_task(queue: Queue) -> None:
    await queue.submit([NewTask(type="t") for _ in range(10)])
    await queue.leases.register("a")
    await queue.leases.register("b")
    async with open_transaction(queue) as first:
        mine = await claim_in(first, "a", 6)
        theirs = (await queue.claims.claim("b", 10)).ids
    assert len(mine) == 6
    assert len(theirs) == 4
    assert not set(mine) & set(theirs)


async def test_a_claim_under_way_keeps_the_reaper_off_its_lane(queue: Queue) -> None:
    await set_clock(queue, START)
    await queue.submit([NewTask(type="t")])
    await queue.leases.register("lane")
    async with open_transaction(queue) as claiming:
        assert len(await claim_in(claiming, "lane")) == 1
        await advance(queue, 16)
        assert (await queue.leases.reap()).lanes == 0
    # Its claim is committed now and its lease is past, so both go together.
    reaped = await queue.leases.reap()
    assert (reaped.lanes, reaped.retried) == (1, 1)


async def test_a_reap_under_way_keeps_the_lane_from_claiming(queue: Queue) -> None:
    await expired_claim(queue)
    await queue.submit([NewTask(type="t")])
    async with open_transaction(queue) as reaping:
        await Session(reaping).fetch("reap", **REAP)
        claiming = asyncio.create_task(queue.claims.claim("lane", 10))
        renewing = asyncio.create_task(queue.leases.renew("lane"))
    assert len(await claiming) == 0
    assert await renewing is None


async def test_a_settlement_under_way_wins_over_the_reaper(queue: Queue) -> None:
    batch = await expired_claim(queue)
    async with open_transaction(queue) as settling:
        await settling.execute("UPDATE tasks SET status = 'completed' WHERE id = $1", batch.ids[0])
        assert (await queue.leases.reap()).retried == 0
    assert (await queue.reader.counts())["completed"] == 1
    assert (await queue.leases.reap()).retried == 0


async def test_a_reap_under_way_makes_the_settlement_stale(queue: Queue) -> None:
    batch = await expired_claim(queue)
    async with open_transaction(queue) as reaping:
        await Session(reaping).fetch("reap", **REAP)
        settling = asyncio.create_task(queue.claims.settle("lane", batch, completed(batch)))
        await blocked_on_a_row(queue)
    assert (await settling).stale == batch.ids
    assert (await queue.reader.counts())["retry"] == 1


async def test_two_reapers_take_a_task_back_once(queue: Queue) -> None:
    await expired_claim(queue)
    async with open_transaction(queue) as reaping:
        first = await Session(reaping).fetchrow("reap", **REAP)
        second = await queue.leases.reap()
    assert first is not None
    assert (first["retried"], second.retried) == (1, 0)
    assert (await queue.leases.reap()).retried == 0


async def test_a_reaper_with_an_old_snapshot_spares_the_next_holder(queue: Queue) -> None:
    """Between a reaper's snapshot and its lock, a task came back and was claimed by a lane it cannot see."""
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, status, locked_by) VALUES ('t', 'running', 'ghost')"
    )
    async with pool_of(queue).acquire() as reaping, reaping.transaction(isolation="read_committed"):
        await reaping.execute("SET LOCAL enable_seqscan = on")
        # Holding the lock of another session on the row makes the reaper stop between the two; without
        # SKIP LOCKED it would wait there, so the statement is run in the form that waits.
        waiting = edited(
            "reap",
            "AND status = 'running'\n        FOR UPDATE SKIP LOCKED",
            "AND status = 'running'\n        FOR UPDATE",
        )
        async with open_transaction(queue) as other:
            await Session(other).fetch("reap", **REAP)
            await other.execute(
                "INSERT INTO lanes (id, host, pid, lease_until) "
                "VALUES ('next', '', 0, queue_now() + interval '1 hour')"
            )
            assert len(await claim_in(other, "next")) == 1
            late = asyncio.create_task(reaping.fetchrow(waiting.text, *waiting.arguments(REAP)))
            await blocked_on_a_row(queue)
        row = await late
    assert row is not None
    assert row["retried"] == 0
    assert (await queue.reader.counts())["running"] == 1


async def test_a_pause_committed_while_a_claim_is_under_way_stops_the_next(queue: Queue) -> None:
    await queue.submit([NewTask(type="t"), NewTask(type="t")])
    await queue.leases.register("lane")
    async with open_transaction(queue) as claiming:
        assert len(await claim_in(claiming, "lane", 1)) == 1
        await queue.operator.pause("type", "t")
        assert await claim_in(claiming, "lane", 1) == []
    assert (await queue.reader.counts())["running"] == 1, "what was claimed before goes on"


async def test_of_two_submits_with_one_key_the_second_gets_the_id_of_the_first(queue: Queue) -> None:
    first = NewTask(type="t", dedup_key="k", id=uuid4())
    async with open_transaction(queue) as submitting:
        await submitting.execute("INSERT INTO tasks (id, type, dedup_key) VALUES ($1, 't', 'k')", first.id)
        waiting = asyncio.create_task(queue.submit([NewTask(type="t", dedup_key="k")]))
        await blocked_on_a_row(queue)
    assert await waiting == [first.id]
    assert (await queue.reader.counts())["queued"] == 1


async def test_a_submit_goes_on_when_the_first_with_its_key_is_rolled_back(queue: Queue) -> None:
    with suppress(ZeroDivisionError):
        async with open_transaction(queue) as submitting:
            await submitting.execute("INSERT INTO tasks (type, dedup_key) VALUES ('t', 'k')")
            waiting = asyncio.create_task(queue.submit([NewTask(type="t", dedup_key="k")]))
            await blocked_on_a_row(queue)
            raise ZeroDivisionError
    [task_id] = await waiting
    assert (await queue.get(str(task_id))).dedup_key == "k"


async def test_a_submit_kept_out_by_a_task_that_then_finished_is_added(queue: Queue) -> None:
    """Between the insertion that was refused and the question who has the key."""
    [older] = await queue.submit([NewTask(type="t", dedup_key="k")])
    await pool_of(queue).execute(
        "CREATE FUNCTION finish() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN UPDATE tasks SET status = 'completed' WHERE id = '{older}'; RETURN NULL; END $$"
    )
    await pool_of(queue).execute("CREATE TRIGGER finish AFTER INSERT ON tasks EXECUTE FUNCTION finish()")
    [task_id] = await queue.submit([NewTask(type="t", dedup_key="k")])
    assert task_id != older
    assert (await queue.get(str(task_id))).status == "queued"


async def test_a_task_committed_late_is_found_at_once_or_after_a_rewind(queue: Queue) -> None:
    """Its transaction began before, and ended after, those of tasks that are already claimed."""
    seconds = 0.0
    await queue.leases.register("lane")
    lines = queue.claims.lines("lane", clock=lambda: seconds)
    for quota in (10, 1):
        # The cursor goes back a little when the line held less than was asked for, else to the last task.
        seconds += REWIND_S + 1
        async with open_transaction(queue) as late:
            late_id = str(await late.fetchval("INSERT INTO tasks (type) VALUES ('t') RETURNING id"))
            [early_id] = await queue.submit([NewTask(type="t")])

            def room(_: str, quota: int = quota) -> int:
                return quota

            assert (await lines.claim(10, room)).ids == [str(early_id)]
        found = (await lines.claim(10, lambda _: 10)).ids
        if quota == 1:
            assert found == []
            seconds += REWIND_S + 1
            await lines.scan()
            found = (await lines.claim(10, lambda _: 10)).ids
        assert found == [late_id]


async def test_a_lane_that_claimed_behind_a_reapers_back_stays_until_its_tasks_are_taken(
    queue: Queue,
) -> None:
    """Its claim is committed between the reaper's snapshot and its lock, so the reaper sees no task of it."""
    await set_clock(queue, START)
    await queue.submit([NewTask(type="t")])
    await queue.leases.register("lane")
    # In the form that waits: the reaper then stands between the two.
    waiting = edited("reap", "ORDER BY id FOR UPDATE SKIP LOCKED", "ORDER BY id FOR UPDATE")
    async with open_transaction(queue) as claiming:
        assert len(await claim_in(claiming, "lane")) == 1
        await advance(queue, 16)
        reaping = asyncio.create_task(pool_of(queue).fetchrow(waiting.text, *waiting.arguments(REAP)))
        await blocked_on_a_row(queue)
    row = await reaping
    assert row is not None
    assert (row["lanes"], row["retried"]) == (1, 0)
    assert [lane.id for lane in await queue.reader.lanes()] == ["lane"]
    assert await queue.leases.renew("lane") is None
    assert (await queue.leases.reap(strays=False)).retried == 1
    assert (await queue.leases.reap()).lanes == 0
    assert await queue.reader.lanes() == []


async def test_a_lane_stays_while_one_of_its_tasks_is_locked(queue: Queue) -> None:
    batch = await expired_claim(queue)
    with suppress(ZeroDivisionError):
        async with open_transaction(queue) as settling:
            await Session(settling).fetch("complete", **completion(batch))
            assert (await queue.leases.reap()).lanes == 1
            assert (await queue.leases.reap()).retried == 0
            raise ZeroDivisionError  # the settlement is rolled back
    assert [lane.id for lane in await queue.reader.lanes()] == ["lane"]
    assert (await queue.leases.reap(strays=False)).retried == 1


async def test_a_release_under_way_wins_over_the_reaper(queue: Queue) -> None:
    batch = await expired_claim(queue)
    async with open_transaction(queue) as releasing:
        assert len(await Session(releasing).fetch("release", **release(batch))) == 1
        assert (await queue.leases.reap()).retried == 0
    task = await queue.get(batch.ids[0])
    assert (task.status, task.attempts, task.lease_lost) == ("queued", 0, 0)
    assert (await queue.leases.reap()).retried == 0


async def test_a_reap_under_way_makes_the_release_stale(queue: Queue) -> None:
    batch = await expired_claim(queue)
    async with open_transaction(queue) as reaping:
        await Session(reaping).fetch("reap", **REAP)
        releasing = asyncio.create_task(queue.claims.release("lane", batch, cause="interrupted", error="x"))
        await blocked_on_a_row(queue)
    assert await releasing == {}
    task = await queue.get(batch.ids[0])
    assert (task.status, task.attempts, task.lease_lost) == ("retry", 0, 1)
