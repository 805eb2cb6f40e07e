"""Two sessions at the same row, step by step: who waits, who wins, and that nobody wins twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from blocks.queue import Batch, Lines, NewTask, Outcomes, Queue, Reaped
from blocks.queue.lines import REWIND_S
from blocks.queue.statements import statement
from tests.clock import START, advance, set_clock

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def open_transaction(queue: Queue) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A session that commits only when the block ends."""
    async with queue.pool.acquire() as connection, connection.transaction():
        yield connection


async def claim_in(connection: asyncpg.Connection[Any], lane: str, limit: int = 10) -> list[str]:
    """Claim of line (t, 0), from its head, in a transaction that stays open."""
    line = (["t"], [0], [limit], [None], [None])
    return [row["id"] for row in await connection.fetch(statement("claim"), lane, limit, *line)]


def completed(batch: Batch) -> Outcomes:
    outcomes = Outcomes()
    for position in range(len(batch)):
        outcomes.add(position, "completed", result="1")
    return outcomes


async def blocked_on_a_row(queue: Queue) -> None:
    """Wait until some session of this database waits for a lock."""
    async with asyncio.timeout(10):
        while not await queue.pool.fetchval(  # Postgres has no event for it
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)


async def running_task(queue: Queue) -> tuple[Batch, UUID]:
    await queue.submit([NewTask(type="t")])
    await queue.register("lane")
    batch = await queue.claim("lane", 1)
    return batch, UUID(batch.ids[0])


def failed(batch: Batch) -> tuple[Any, ...]:
    """Arguments of the statement that settles a failure of every task of ``batch``."""
    n = len(batch)
    return (
        batch.ids,
        batch.claims,
        ["failed"] * n,
        ["x"] * n,
        ["fast"] * n,
        [None] * n,
        [0.0] * n,
        5,
        1.0,
        1.0,
        "lane",
    )


def completion(batch: Batch) -> tuple[Any, ...]:
    """Arguments of the statement that settles every task of ``batch`` as completed."""
    n = len(batch)
    return batch.ids, batch.claims, ["1"] * n, ["fast"] * n, [None] * n, [0.0] * n


def release(batch: Batch) -> tuple[Any, ...]:
    """Arguments of the statement that hands every task of ``batch`` back."""
    return batch.ids, batch.claims, "interrupted", "x", 0, "lane"


async def expired_claim(queue: Queue) -> Batch:
    """A claim whose lane is past its lease and not yet reaped."""
    await set_clock(queue, START)
    await queue.submit([NewTask(type="t")])
    await queue.register("lane")
    batch = await queue.claim("lane", 1)
    await advance(queue, 16)
    return batch


async def test_two_claimers_never_share_a_task(queue: Queue) -> None:
    await queue.submit([NewTask(type="t") for _ in range(10)])
    await queue.register("a")
    await queue.register("b")
    async with open_transaction(queue) as first:
        mine = await claim_in(first, "a", 6)
        theirs = (await queue.claim("b", 10)).ids
    assert len(mine) == 6
    assert len(theirs) == 4
    assert not set(mine) & set(theirs)


async def test_a_claim_under_way_keeps_the_reaper_off_its_lane(queue: Queue) -> None:
    await set_clock(queue, START)
    await queue.submit([NewTask(type="t")])
    await queue.register("lane")
    async with open_transaction(queue) as claiming:
        assert len(await claim_in(claiming, "lane")) == 1
        await advance(queue, 16)
        assert (await queue.reap()).lanes == 0
    # Its claim is committed now and its lease is past, so both go together.
    reaped = await queue.reap()
    assert (reaped.lanes, reaped.retried) == (1, 1)


async def test_a_reap_under_way_keeps_the_lane_from_claiming(queue: Queue) -> None:
    await expired_claim(queue)
    await queue.submit([NewTask(type="t")])
    async with open_transaction(queue) as reaping:
        await reaping.fetch(statement("reap"), 10, True)
        claiming = asyncio.create_task(queue.claim("lane", 10))
        renewing = asyncio.create_task(queue.renew("lane"))
    assert len(await claiming) == 0
    assert await renewing is None


async def test_a_settlement_under_way_wins_over_the_reaper(queue: Queue) -> None:
    batch = await expired_claim(queue)
    async with open_transaction(queue) as settling:
        await settling.execute("UPDATE tasks SET status = 'completed' WHERE id = $1", batch.ids[0])
        assert (await queue.reap()).retried == 0
    assert (await queue.counts())["completed"] == 1
    assert (await queue.reap()).retried == 0


async def test_a_reap_under_way_makes_the_settlement_stale(queue: Queue) -> None:
    batch = await expired_claim(queue)
    async with open_transaction(queue) as reaping:
        await reaping.fetch(statement("reap"), 10, True)
        settling = asyncio.create_task(queue.settle("lane", batch, completed(batch)))
        await blocked_on_a_row(queue)
    assert (await settling).stale == batch.ids
    assert (await queue.counts())["retry"] == 1


async def test_two_reapers_take_a_task_back_once(queue: Queue) -> None:
    await expired_claim(queue)
    async with open_transaction(queue) as reaping:
        first = await reaping.fetchrow(statement("reap"), 10, True)
        second = await queue.reap()
    assert first is not None
    assert (first["retried"], second.retried) == (1, 0)
    assert (await queue.reap()).retried == 0


async def test_a_reaper_with_an_old_snapshot_spares_the_next_holder(queue: Queue) -> None:
    """Between a reaper's snapshot and its lock, a task came back and was claimed by a lane it cannot see."""
    await queue.pool.execute("INSERT INTO tasks (type, status, locked_by) VALUES ('t', 'running', 'ghost')")
    async with queue.pool.acquire() as reaping, reaping.transaction(isolation="read_committed"):
        await reaping.execute("SET LOCAL enable_seqscan = on")
        # Holding the lock of another session on the row makes the reaper stop between the two; without
        # SKIP LOCKED it would wait there, so the statement is run in the form that waits.
        waiting = statement("reap").replace(
            "AND status = 'running'\n        FOR UPDATE SKIP LOCKED",
            "AND status = 'running'\n        FOR UPDATE",
        )
        assert waiting != statement("reap")
        async with open_transaction(queue) as other:
            await other.fetch(statement("reap"), 10, True)
            await other.execute(
                "INSERT INTO lanes (id, host, pid, lease_until) "
                "VALUES ('next', '', 0, queue_now() + interval '1 hour')"
            )
            assert len(await claim_in(other, "next")) == 1
            late = asyncio.create_task(reaping.fetchrow(waiting, 10, True))
            await blocked_on_a_row(queue)
        row = await late
    assert row is not None
    assert row["retried"] == 0
    assert (await queue.counts())["running"] == 1


REPORTS = pytest.mark.parametrize(
    ("write", "arguments"), [("complete", completion), ("settle", failed), ("release", release)]
)


@REPORTS
async def test_a_cancel_waits_for_a_report_under_way(
    queue: Queue, write: str, arguments: Callable[[Batch], tuple[Any, ...]]
) -> None:
    batch, task_id = await running_task(queue)
    async with open_transaction(queue) as reporting:
        assert len(await reporting.fetch(statement(write), *arguments(batch))) == 1
        cancelling = asyncio.create_task(queue.cancel([task_id]))
        await blocked_on_a_row(queue)
    done, status = await cancelling, (await queue.get(batch.ids[0])).status
    if write == "complete":
        assert (done.unchanged, status) == ([task_id], "completed")
    else:  # It went back into line, and waits no more.
        assert (done.cancelled, status) == ([task_id], "cancelled")


@REPORTS
async def test_a_report_after_a_cancel_under_way_ends_the_task(
    queue: Queue, write: str, arguments: Callable[[Batch], tuple[Any, ...]]
) -> None:
    batch, task_id = await running_task(queue)
    async with open_transaction(queue) as cancelling:
        [row] = await cancelling.fetch(statement("cancel"), [task_id])
        assert row["status"] == "running"
        reporting = asyncio.create_task(queue.pool.fetch(statement(write), *arguments(batch)))
        await blocked_on_a_row(queue)
    assert len(await reporting) == 1
    task = await queue.get(batch.ids[0])
    assert task.status == ("completed" if write == "complete" else "cancelled")
    assert (task.cancel_requested, task.locked_by) == (False, None)


async def test_a_cancel_while_a_claim_is_under_way_reaches_the_lane(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="t")])
    await queue.register("lane")
    async with open_transaction(queue) as claiming:
        assert await claim_in(claiming, "lane") == [str(task_id)]
        cancelling = asyncio.create_task(queue.cancel([task_id]))
        await blocked_on_a_row(queue)
    assert (await cancelling).requested == [task_id]
    assert len(await queue.cancel_requests("lane")) == 1


async def test_a_claim_passes_by_what_is_being_cancelled(queue: Queue) -> None:
    cancelled, other = await queue.submit([NewTask(type="t"), NewTask(type="t")])
    await queue.register("lane")
    async with open_transaction(queue) as cancelling:
        await cancelling.fetch(statement("cancel"), [cancelled])
        assert (await queue.claim("lane", 10)).ids == [str(other)]
    assert (await queue.get(str(cancelled))).status == "cancelled"


async def test_a_cancel_and_a_reap_at_the_same_moment(queue: Queue) -> None:
    batch = await expired_claim(queue)
    task_id = UUID(batch.ids[0])
    async with open_transaction(queue) as cancelling:
        await cancelling.fetch(statement("cancel"), [task_id])
        assert (await queue.reap()).retried == 0, "the reaper passes by what is locked"
    assert await queue.reap() == Reaped(lanes=0, retried=1, failed=0)
    assert (await queue.get(batch.ids[0])).status == "cancelled"


async def test_a_cancel_after_a_reap_under_way_ends_the_task(queue: Queue) -> None:
    batch = await expired_claim(queue)
    async with open_transaction(queue) as reaping:
        await reaping.fetch(statement("reap"), 10, True)
        cancelling = asyncio.create_task(queue.cancel([UUID(batch.ids[0])]))
        await blocked_on_a_row(queue)
    assert (await cancelling).cancelled == [UUID(batch.ids[0])]
    assert (await queue.get(batch.ids[0])).status == "cancelled"


async def test_of_two_cancels_of_a_waiting_task_one_did_it(queue: Queue) -> None:
    ids = await queue.submit([NewTask(type="t") for _ in range(5)])
    async with open_transaction(queue) as first:
        assert len(await first.fetch(statement("cancel"), ids)) == 5
        # In another order, and no deadlock.
        second = asyncio.create_task(queue.cancel(ids[::-1]))
        await blocked_on_a_row(queue)
    assert (await second).unchanged == ids[::-1]


async def test_a_pause_committed_while_a_claim_is_under_way_stops_the_next(queue: Queue) -> None:
    await queue.submit([NewTask(type="t"), NewTask(type="t")])
    await queue.register("lane")
    async with open_transaction(queue) as claiming:
        assert len(await claim_in(claiming, "lane", 1)) == 1
        await queue.pause("type", "t")
        assert await claim_in(claiming, "lane", 1) == []
    assert (await queue.counts())["running"] == 1, "what was claimed before goes on"


async def test_of_two_submits_with_one_key_the_second_gets_the_id_of_the_first(queue: Queue) -> None:
    first = NewTask(type="t", dedup_key="k", id=uuid4())
    async with open_transaction(queue) as submitting:
        await submitting.execute("INSERT INTO tasks (id, type, dedup_key) VALUES ($1, 't', 'k')", first.id)
        waiting = asyncio.create_task(queue.submit([NewTask(type="t", dedup_key="k")]))
        await blocked_on_a_row(queue)
    assert await waiting == [first.id]
    assert (await queue.counts())["queued"] == 1


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
    await queue.pool.execute(
        "CREATE FUNCTION finish() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN UPDATE tasks SET status = 'completed' WHERE id = '{older}'; RETURN NULL; END $$"
    )
    await queue.pool.execute("CREATE TRIGGER finish AFTER INSERT ON tasks EXECUTE FUNCTION finish()")
    [task_id] = await queue.submit([NewTask(type="t", dedup_key="k")])
    assert task_id != older
    assert (await queue.get(str(task_id))).status == "queued"


async def test_a_task_committed_late_is_found_at_once_or_after_a_rewind(queue: Queue) -> None:
    """Its transaction began before, and ended after, those of tasks that are already claimed."""
    seconds = 0.0
    await queue.register("lane")
    lines = Lines(queue, "lane", clock=lambda: seconds)
    for quota in (10, 1):
        # The cursor goes back a little when the line held less than was asked for, else to the last task.
        seconds += REWIND_S + 1
        async with open_transaction(queue) as late:
            late_id = str(await late.fetchval("INSERT INTO tasks (type) VALUES ('t') RETURNING id"))
            [early_id] = await queue.submit([NewTask(type="t")])
            assert (await lines.claim(10, lambda _, quota=quota: quota)).ids == [str(early_id)]
        found = (await lines.claim(10, lambda _: 10)).ids
        if quota == 1:
            assert found == []
            seconds += REWIND_S + 1
            await lines.look()
            found = (await lines.claim(10, lambda _: 10)).ids
        assert found == [late_id]


async def test_a_lane_that_claimed_behind_a_reapers_back_stays_until_its_tasks_are_taken(
    queue: Queue,
) -> None:
    """Its claim is committed between the reaper's snapshot and its lock, so the reaper sees no task of it."""
    await set_clock(queue, START)
    await queue.submit([NewTask(type="t")])
    await queue.register("lane")
    # In the form that waits: the reaper then stands between the two.
    waiting = statement("reap").replace("ORDER BY id FOR UPDATE SKIP LOCKED", "ORDER BY id FOR UPDATE")
    assert waiting != statement("reap")
    async with open_transaction(queue) as claiming:
        assert len(await claim_in(claiming, "lane")) == 1
        await advance(queue, 16)
        reaping = asyncio.create_task(queue.pool.fetchrow(waiting, 10, True))
        await blocked_on_a_row(queue)
    row = await reaping
    assert row is not None
    assert (row["lanes"], row["retried"]) == (1, 0)
    assert [lane.id for lane in await queue.lanes()] == ["lane"]
    assert await queue.renew("lane") is None
    assert (await queue.reap(strays=False)).retried == 1
    assert (await queue.reap()).lanes == 0
    assert await queue.lanes() == []


async def test_a_release_under_way_wins_over_the_reaper(queue: Queue) -> None:
    batch = await expired_claim(queue)
    async with open_transaction(queue) as releasing:
        assert len(await releasing.fetch(statement("release"), *release(batch))) == 1
        assert (await queue.reap()).retried == 0
    task = await queue.get(batch.ids[0])
    assert (task.status, task.attempts, task.lease_lost) == ("queued", 0, 0)
    assert (await queue.reap()).retried == 0


async def test_a_reap_under_way_makes_the_release_stale(queue: Queue) -> None:
    batch = await expired_claim(queue)
    async with open_transaction(queue) as reaping:
        await reaping.fetch(statement("reap"), 10, True)
        releasing = asyncio.create_task(queue.release("lane", batch, cause="interrupted", error="x"))
        await blocked_on_a_row(queue)
    assert await releasing == []
    task = await queue.get(batch.ids[0])
    assert (task.status, task.attempts, task.lease_lost) == ("retry", 0, 1)
