"""Two sessions at the same row, step by step: who waits, who wins, and that nobody wins twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from blocks.queue import Batch, NewTask, Outcomes, Queue
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
        waiting = statement("reap").replace("FOR UPDATE OF t SKIP LOCKED", "FOR UPDATE OF t")
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


async def blocked_on_a_row(queue: Queue) -> None:
    """Wait until some session of this database waits for a lock."""
    async with asyncio.timeout(10):
        while not await queue.pool.fetchval(  # Postgres has no event for it
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)
