"""Sessions that stop in the middle of what they do, for others to meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from asyncpg.pool import PoolConnectionProxy

from organism_flows.blocks.queue import Batch, NewTask, Outcomes, Queue
from organism_flows.blocks.queue.db.statements import statement
from tests.clock import START, advance, set_clock


@asynccontextmanager
async def open_transaction(queue: Queue) -> AsyncIterator[PoolConnectionProxy[Any]]:
    """A session that commits only when the block ends."""
    async with queue.pool.acquire() as connection, connection.transaction():
        yield connection


async def claim_in(connection: PoolConnectionProxy[Any], lane: str, limit: int = 10) -> list[str]:
    """Claim of the line of type t, from its head, in a transaction that stays open."""
    line = (["t"], [0], [""], [""], [limit], [None], [None])
    return [row["id"] for row in await connection.fetch(statement("claim"), lane, limit, *line)]


def completed(batch: Batch) -> Outcomes:
    outcomes = Outcomes()
    for position in range(len(batch)):
        outcomes.add(position, "completed", result="1")
    return outcomes


async def blocked_on_a_row(queue: Queue, sessions: int = 1) -> None:
    """Wait until so many sessions of this database wait for a lock."""
    async with asyncio.timeout(10):
        while sessions > await queue.pool.fetchval(  # Postgres has no event for it
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
        *([None] * n for _ in range(3)),
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
