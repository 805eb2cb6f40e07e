"""Sessions that stop in the middle of what they do, for others to meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from asyncpg.pool import PoolConnectionProxy

from organism_flows.blocks.queue import Batch, NewTask, Outcomes, Queue
from organism_flows.blocks.queue.db.session import Session
from tests.support.clock import START, advance, set_clock
from tests.support.sql import pool_of


@asynccontextmanager
async def open_transaction(queue: Queue) -> AsyncIterator[PoolConnectionProxy[Any]]:
    """A session that commits only when the block ends."""
    async with pool_of(queue).acquire() as connection, connection.transaction():
        yield connection


async def claim_in(connection: PoolConnectionProxy[Any], lane: str, limit: int = 10) -> list[str]:
    """Claim of the line of type t, from its head, in a transaction that stays open."""
    columns = await Session(connection).fetchrow(
        "claim",
        lane=lane,
        limit=limit,
        types=["t"],
        priorities=[0],
        domains=[""],
        keys=[""],
        quotas=[limit],
        after=[None],
        after_ids=[None],
    )
    return [] if columns is None else list(columns["id"])


def completed(batch: Batch) -> Outcomes:
    outcomes = Outcomes()
    for position in range(len(batch)):
        outcomes.add(position, "completed", result="1")
    return outcomes


async def blocked_on_a_row(queue: Queue, sessions: int = 1) -> None:
    """Wait until so many sessions of this database wait for a lock."""
    async with asyncio.timeout(10):
        while sessions > await pool_of(queue).fetchval(  # Postgres has no event for it
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)


async def running_task(queue: Queue) -> tuple[Batch, UUID]:
    await queue.submit([NewTask(type="t")])
    await queue.leases.register("lane")
    batch = await queue.claims.claim("lane", 1)
    return batch, UUID(batch.ids[0])


def failed(batch: Batch) -> dict[str, Any]:
    """Arguments of the statement that settles a failure of every task of ``batch``."""
    n = len(batch)
    return {
        "ids": batch.ids,
        "claims": batch.claims,
        "causes": ["failed"] * n,
        "errors": ["x"] * n,
        "paths": ["fast"] * n,
        "organ_ids": [None] * n,
        "elapsed_ms": [0.0] * n,
        "logs": [None] * n,
        "versions": [None] * n,
        "max_attempts": [None] * n,
        "backoff_base_s": [None] * n,
        "backoff_cap_s": [None] * n,
        "default_max_attempts": 5,
        "default_backoff_base_s": 1.0,
        "default_backoff_cap_s": 1.0,
        "lane": "lane",
    }


def completion(batch: Batch) -> dict[str, Any]:
    """Arguments of the statement that settles every task of ``batch`` as completed."""
    n = len(batch)
    return {
        "ids": batch.ids,
        "claims": batch.claims,
        "results": ["1"] * n,
        "paths": ["fast"] * n,
        "organ_ids": [None] * n,
        "elapsed_ms": [0.0] * n,
        "logs": [None] * n,
        "versions": [None] * n,
    }


def release(batch: Batch) -> dict[str, Any]:
    """Arguments of the statement that hands every task of ``batch`` back."""
    return {
        "ids": batch.ids,
        "claims": batch.claims,
        "cause": "interrupted",
        "error": "x",
        "suspicion": 0,
        "lane": "lane",
    }


async def expired_claim(queue: Queue) -> Batch:
    """A claim whose lane is past its lease and not yet reaped."""
    await set_clock(queue, START)
    await queue.submit([NewTask(type="t")])
    await queue.leases.register("lane")
    batch = await queue.claims.claim("lane", 1)
    await advance(queue, 16)
    return batch
