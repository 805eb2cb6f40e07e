"""What an operator learns of work that runs for long, from a real queue and from what an organism says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from organism_flows.blocks.long_work import LongWork, OrganismWork, ask_organism, long_work_sql
from organism_flows.blocks.queue import NewTask, Queue, TypePolicy
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import claim
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def still(queue: Queue) -> None:
    await set_clock(queue, START)


async def interrupt(queue: Queue, times: int) -> None:
    for _ in range(times):
        batch = await claim(queue)
        await queue.claims.release("lane", batch, cause="interrupted", error="the lane stopped")


async def test_a_queue_without_long_work_has_nothing_to_say(queue: Queue) -> None:
    await queue.submit([NewTask(type="t")] * 3)
    await claim(queue)
    await advance(queue, 10)
    work = await queue.health.long_work()
    assert work.notes == []
    assert (work.suspects, work.handed_over, work.interrupted, work.leaving) == (0, 0, 0, ())


async def test_interrupted_more_than_twice_and_unfinished(queue: Queue) -> None:
    await queue.submit([NewTask(type="t")] * 4)
    await interrupt(queue, 2)
    assert (await queue.health.long_work()).notes == []
    await interrupt(queue, 1)
    assert (await queue.health.long_work()).notes == ["4 unfinished tasks were interrupted more than twice"]
    assert [await queue.health.interrupted(at_most=n) for n in (2, 10)] == [2, 4]
    assert [(kind, times) for _, kind, times in await queue.health.most_interrupted(at_most=2)] == [
        ("t", 3)
    ] * 2
    batch = await claim(queue)
    assert (await queue.health.long_work()).interrupted == 4, "one that runs again is not finished"
    await queue.operator.cancel([(await queue.get(task)).id for task in batch.ids[1:]])
    await queue.claims.release("lane", batch, cause="interrupted", error="the lane stopped")
    assert (await queue.health.long_work()).notes == ["1 unfinished task was interrupted more than twice"]


async def test_suspects_and_tasks_that_wait_on_replicas(queue: Queue) -> None:
    await queue.submit([NewTask(type="t")] * 3)
    batch = await claim(queue)
    await queue.claims.release("lane", batch.take([0, 1]), cause="replica_lost", error="it died", suspicion=1)
    assert (await queue.health.long_work()).suspects == 0, "none of them runs"
    suspects = await claim(queue)
    await queue.claims.begun(suspects)
    assert (await queue.health.long_work()).notes == ["2 suspects run in processes of their own"]
    await pool_of(queue).execute("UPDATE lanes SET lease_until = queue_now() + interval '1 hour'")
    await advance(queue, 61)
    work = await queue.health.long_work()
    assert (work.handed_over, work.handed_over_since) == (1, START)
    assert work.handed_over_note == (
        "1 task on a replica has waited more than 60 s for a handler, the oldest since 00:00:00 UTC"
    )


async def test_lanes_that_leave_and_until_when(queue: Queue) -> None:
    await queue.leases.register("lane", run="run")
    await queue.submit([NewTask(type="bounded"), NewTask(type="t", timeout_s=7200)])
    batch = await claim(queue)
    await queue.operator.request_leave("run")
    await advance(queue, 3)
    await queue.claims.begun(batch)
    await queue.leases.renew("lane", leaving=True)
    work = await queue.health.long_work()
    assert work.leaving_note == (
        "1 lane leaves since 00:00:03 UTC (2 tasks), "
        "until its tasks end, the oldest is held since 00:00:03 UTC"
    ), "how long an organ gives its tasks is not in the database"
    await queue.operator.set_policy(TypePolicy(type="bounded", timeout_s=86_400))
    work = await queue.health.long_work()
    assert work.notes == [
        "1 lane leaves since 00:00:03 UTC (2 tasks), until 2030-01-02 00:00:03 UTC at the latest"
    ]
    await queue.operator.set_policy(TypePolicy(type="bounded", timeout_s=1e300))
    assert len((await queue.health.long_work()).notes) == 1, "a timeout without an end breaks nothing"
    await queue.leases.register("empty", run="run")
    await queue.operator.request_leave("run")
    await advance(queue, 1)
    await queue.leases.renew("empty", leaving=True)
    assert "2 lanes leave, the first since 00:00:03 UTC (2 tasks), until" in (
        (await queue.health.long_work()).leaving_note or ""
    )
    await advance(queue, 60)
    assert (await queue.health.long_work()).leaving == (), "lanes without a lease are gone"


async def test_it_is_read_without_the_queue_too(queue: Queue) -> None:
    await queue.submit([NewTask(type="t")])
    await interrupt(queue, 3)
    connection = await asyncpg.connect(queue.dsn)
    try:
        text, arguments = long_work_sql()
        row = await connection.fetchrow(text, *arguments)
    finally:
        await connection.close()
    assert row is not None
    assert LongWork.of(dict(row)) == await queue.health.long_work()


# The organism

RUNNING = {
    "replicas": [
        {"replica": "r1", "draining": True, "organs": {"train": {"in_flight": 2, "lingering": 1}}},
        {
            "replica": "r2",
            "draining": False,
            "organs": {"train": {"in_flight": 1, "suspects": 1, "lingering": 1}, "echo": {"in_flight": 0}},
        },
    ]
}


@asynccontextmanager
async def organism(status: int, body: bytes) -> AsyncIterator[str]:
    """URL of an organism that answers every request so."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/organism"


async def test_copies_and_draining_replicas_are_counted() -> None:
    async with organism(200, json.dumps(RUNNING).encode()) as url:
        work = await ask_organism(url, {})
    assert work is not None
    assert (work.copies, work.draining) == (2, 1)
    assert work.notes == [
        "2 handlers that were asked to stop still run (train: 2)",
        "1 replica is draining: it ends the tasks it has",
    ]
    assert OrganismWork().notes == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"{}"),
        (200, b"no json"),
        (200, b"{}"),
        (200, b'{"replicas": [{"replica": "r"}]}'),
        (200, b'{"replicas": [{"replica": "r", "organs": {"a": {"lingering": "many"}}}]}'),
    ],
)
async def test_an_organism_without_the_route_says_nothing(status: int, body: bytes) -> None:
    async with organism(status, body) as url:
        assert await ask_organism(url, {}) is None


async def test_an_organism_that_is_away_says_nothing() -> None:
    away: Any
    for away in (None, "http://127.0.0.1:1/organism", "nonsense"):
        assert await ask_organism(away, {}) is None
