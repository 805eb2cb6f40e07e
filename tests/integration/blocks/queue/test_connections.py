"""Connections that break, run out, fall silent or lead through a pooler."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import asyncpg
import pytest

from organism_flows.blocks.errors import ConfigurationError, QueueUnavailable
from organism_flows.blocks.queue import NewTask, Queue, migrate
from organism_flows.blocks.queue.db import connection as db_connection
from organism_flows.blocks.queue.db.connection import RELEASE_TIMEOUT, TRANSIENT_ERRORS, behind_pooler
from organism_flows.blocks.queue.db.listener import PROBE_INTERVAL, PROBE_TIMEOUT, Listener
from organism_flows.flows.lanes.lane import Lane
from tests.conftest import Databases
from tests.support.bouncer import bounced
from tests.support.history import check_history, install_history
from tests.support.proxy import proxied
from tests.support.queue.sessions import completed
from tests.support.scripted_organism import ScriptedOrganism
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio
TIMEOUT = 60
TASKS = 1500
KILLED = 25


@pytest.fixture
async def pooled(database: str) -> AsyncIterator[str]:
    async with bounced(database) as dsn:
        yield dsn


async def drain(queue: Queue, *, lanes: int) -> None:
    organism = ScriptedOrganism()
    work = [Lane(queue, organism, batch_size=20, until_empty=True).run() for _ in range(lanes)]
    await asyncio.wait_for(asyncio.gather(*work), TIMEOUT)


# PgBouncer in transaction mode


async def test_a_pooler_is_recognised(database: str, pooled: str) -> None:
    for dsn, expected in ((database, False), (pooled, True)):
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
        assert await behind_pooler(connection) is expected
        await connection.close()


async def test_the_whole_way_of_a_task_through_pgbouncer(database: str, pooled: str) -> None:
    async with Queue(database) as direct, Queue(pooled, backoff_base_s=0.01) as queue:
        await install_history(direct)
        tasks = [NewTask(type="ok")] * TASKS + [NewTask(type="fail", max_attempts=2)] * 20
        ids = [str(i) for i in await queue.submit(tasks)]
        await drain(queue, lanes=3)
        await check_history(direct, ids)
        counts = await queue.reader.counts()
        assert (counts["completed"], counts["failed"]) == (TASKS, 20)
        assert len((await queue.get(ids[-1])).history) == 2
        assert await queue.reader.lanes() == []


async def test_without_care_for_the_pooler_it_would_fail(
    database: str, pooled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unaware(_: object) -> bool:
        return False

    # What must be red: a client that does not know of the pooler keeps prepared statements, among others.
    monkeypatch.setattr(db_connection, "behind_pooler", unaware)
    with pytest.raises(QueueUnavailable, match="plan_cache_mode"):
        await Queue(pooled).__aenter__()
    async with AsyncExitStack() as stack:

        async def connected() -> asyncpg.Connection[Any]:
            connection = await asyncpg.connect(pooled)
            stack.callback(connection.terminate)
            return connection

        unlucky = await connected()
        await unlucky.fetchval("SELECT $1::int", 1)
        # Of the three server connections two are held, the one it was prepared on among them: it is the
        # only one so far, and the next is made when it is needed.
        for _ in range(2):
            await (await connected()).execute("BEGIN")
        with pytest.raises(asyncpg.InvalidSQLStatementNameError):
            await unlucky.fetchval("SELECT $1::int", 1)


async def test_plans_are_kept_and_a_table_does_not_outgrow_them(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = """
        SELECT sum(generic_plans)::int AS generic, sum(custom_plans)::int AS custom
        FROM pg_prepared_statements WHERE statement ~ $1
    """
    async with Queue(database, connections=1) as queue:
        await queue.leases.register("lane")

        async def runs(count: int) -> None:
            for _ in range(count):
                await queue.submit([NewTask(type="ok")])
                batch = await queue.claims.claim("lane", 1)
                await queue.claims.settle("lane", batch, completed(batch))

        monkeypatch.setattr(db_connection, "PLANS_LAST_S", 3600.0)
        await runs(12)
        for text in ("Claims due tasks", "Settles completed"):
            [plans] = await pool_of(queue).fetch(planned, text)
            assert plans["custom"] <= 5, "Postgres plans five times before it compares"
            assert plans["generic"] >= 7
        # While the table is small, a plan may scan it. An hour's plan would still do so, a second's does not.
        await pool_of(queue).execute(
            "INSERT INTO tasks (type, status, finished_at) "
            "SELECT 'old', 'completed', now() FROM generate_series(1, 50000)"
        )
        monkeypatch.setattr(db_connection, "PLANS_LAST_S", 0.0)
        await runs(1)
        await pool_of(queue).fetchval("SELECT pg_stat_force_next_flush()")
        scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'tasks'"
        before = await pool_of(queue).fetchval(scans)
        await runs(3)
        await pool_of(queue).fetchval("SELECT pg_stat_force_next_flush()")
        assert await pool_of(queue).fetchval(scans) == before


async def test_through_a_pooler_lanes_poll_and_say_so_once(
    pooled: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.flows.lanes.claim_loop.POLL_S", 0.5)
    async with Queue(pooled) as queue:
        lane = Lane(queue, ScriptedOrganism())
        with caplog.at_level(logging.WARNING):
            run = asyncio.create_task(lane.run())
            await asyncio.wait_for(lane.signals.idle.wait(), TIMEOUT)
            await queue.submit([NewTask(type="ok")])
            await asyncio.wait_for(lane.signals.settled.wait(), TIMEOUT)
            lane.stop()
            await asyncio.wait_for(run, TIMEOUT)
    said = [record.getMessage() for record in caplog.records if "LISTEN" in record.getMessage()]
    assert len(said) == 1
    assert "ORGANISM_DIRECT_DSN" in said[0]


async def test_a_direct_connection_brings_the_wakeups_back(database: str, pooled: str) -> None:
    async with Queue(pooled, direct_dsn=database) as queue:
        lane = Lane(queue, ScriptedOrganism())
        run = asyncio.create_task(lane.run())
        await asyncio.wait_for(lane.signals.idle.wait(), TIMEOUT)
        await queue.submit([NewTask(type="ok")])
        # Well below the poll interval: it was the notification.
        await asyncio.wait_for(lane.signals.settled.wait(), 2)
        lane.stop()
        await asyncio.wait_for(run, TIMEOUT)


async def test_migrations_do_not_go_through_a_pooler(databases: Databases) -> None:
    empty = await databases.create(migrated=False)
    async with bounced(empty) as pooled:
        with pytest.raises(ConfigurationError, match="ORGANISM_DIRECT_DSN"):
            await asyncio.wait_for(migrate(pooled), TIMEOUT)
        await migrate(empty)
        async with Queue(pooled) as queue:
            assert (await queue.reader.counts())["completed"] == 0


# Half-open, killed, exhausted


async def test_a_listener_on_a_half_open_connection_comes_back(database: str) -> None:
    """The listener's connection alone falls silent; its socket stays open, so nothing ever breaks."""
    async with proxied(database) as proxy, Queue(database, direct_dsn=proxy.dsn) as queue:
        lane = Lane(queue, ScriptedOrganism())
        run = asyncio.create_task(lane.run())
        await asyncio.wait_for(lane.signals.idle.wait(), TIMEOUT)
        proxy.fall_silent()
        silent = time.monotonic()
        await queue.submit([NewTask(type="ok")])
        await asyncio.wait_for(lane.signals.settled.wait(), TIMEOUT)
        print(f"picked up by polling after {time.monotonic() - silent:.1f} s")
        lane.stop()
        await asyncio.wait_for(run, TIMEOUT)

    async with proxied(database) as proxy, Listener(proxy.dsn) as listener:
        await asyncio.wait_for(listener.listening.wait(), TIMEOUT)
        before = proxy.connected
        proxy.fall_silent()
        silent = time.monotonic()
        await until(lambda: not listener.listening.is_set(), patience=PROBE_INTERVAL + PROBE_TIMEOUT + 5)
        noticed = time.monotonic() - silent
        since = silent + noticed
        assert noticed < PROBE_INTERVAL + PROBE_TIMEOUT + 1
        proxy.cut()
        proxy.speak()
        await asyncio.wait_for(listener.listening.wait(), TIMEOUT)
        print(f"noticed after {noticed:.1f} s, listening again {time.monotonic() - since:.1f} s later")
        assert proxy.connected > before
        listener.event.clear()
        async with Queue(database) as queue:
            await queue.submit([NewTask(type="ok")])
        await asyncio.wait_for(listener.event.wait(), 2)


@pytest.mark.parametrize("plans_last_s", [0.0, 3600.0])
async def test_a_silent_postgres_costs_no_more_than_the_timeout(
    database: str, plans_last_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `Pool.release` each of these takes ten seconds, which asyncpg has for cancelling.

    So does closing a connection, one on which plans could not be discarded too.
    """
    monkeypatch.setattr(db_connection, "PLANS_LAST_S", plans_last_s)
    monkeypatch.setattr(db_connection, "REPLAN_TIMEOUT", 0.2)
    async with proxied(database) as proxy, Queue(proxy.dsn, connections=2) as queue:
        for _ in range(2):
            await queue.reader.now()
            proxy.fall_silent()
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await pool_of(queue).fetch("SELECT 1", timeout=0.2)
            asking = asyncio.create_task(queue.reader.now())
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            took = time.monotonic() - began
            assert took < 0.2 + 2 * RELEASE_TIMEOUT + 3
            proxy.speak()
        assert await queue.reader.now(), "and the connections that were given up are made anew"


async def test_who_is_cancelled_on_a_silent_postgres_knows_it(database: str) -> None:
    async with proxied(database) as proxy, Queue(proxy.dsn, connections=1) as queue:
        proxy.hold_answers()
        asking = asyncio.create_task(pool_of(queue).fetch("SELECT 1"))
        await until(lambda: pool_of(queue).get_idle_size() == 0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


@pytest.mark.parametrize("later", range(5))
async def test_a_listener_that_is_left_as_its_connection_breaks_ends(
    database: str, later: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[asyncio.Event] = []

    class Noted(asyncio.Event):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    listener = Listener(database)
    monkeypatch.setattr(asyncio, "Event", Noted)
    async with listener:
        await listener.listening.wait()
        while not (waited_for := [event for event in made if event._waiters]):
            await asyncio.sleep(0)
        async with asyncio.timeout(TIMEOUT) as deadline:
            waited_for[0].set()
            for _ in range(later):
                await asyncio.sleep(0)
            await listener.__aexit__()
        # Asked here as well: leaving takes a cancellation for its own.
        assert not deadline.expired()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))])
async def test_backends_killed_at_random_under_load(database: str, seed: int) -> None:
    chance = random.Random(seed)
    killed = 0
    ids: list[str] = []
    async with Queue(database, lease_s=5) as queue:
        await install_history(queue)
        organism = ScriptedOrganism()
        lanes = [Lane(queue, organism, batch_size=20) for _ in range(2)]
        runs = [asyncio.create_task(lane.run()) for lane in lanes]
        killer = await asyncpg.connect(database)
        await until(lambda: killer.fetchval("SELECT count(*) = 2 FROM lanes"))
        while killed < KILLED:
            added = await killer.fetch(
                "INSERT INTO tasks (type) SELECT 'ok' FROM generate_series(1, 100) RETURNING id"
            )
            ids += [str(row["id"]) for row in added]
            await asyncio.sleep(chance.uniform(0.01, 0.1))
            killed += await killer.fetchval(
                "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                "datname = current_database() AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend' AND random() < 0.3) gone"
            )
        await until(lambda: killer.fetchval("SELECT count(*) = 0 FROM tasks WHERE status <> 'completed'"))
        await killer.close()
        for lane in lanes:
            lane.stop()
        await asyncio.wait_for(asyncio.gather(*runs), TIMEOUT)
        for _ in range(5):  # the pool finds out which of its connections are dead
            with suppress(*TRANSIENT_ERRORS):
                await queue.reader.now()
        await check_history(queue, ids)
        assert await queue.reader.lanes() == []


async def take_every_connection(database: str, held: list[asyncpg.Connection]) -> None:
    """Take every connection the server has left, and those of the lane, which holds none at the end."""
    while True:
        # The place of a process that was ended is free milliseconds later; the lane wants it back in 0.2 s.
        for _ in range(20):
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    held.append(await asyncpg.connect(database))
            await asyncio.sleep(0.005)
        if not await held[0].fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'organism'"
        ):
            return


async def test_a_server_without_a_free_connection_is_named_and_waited_for(database: str) -> None:
    organism = ScriptedOrganism()
    held: list[asyncpg.Connection] = []
    async with AsyncExitStack() as stack, Queue(database, lease_s=60, connections=2) as queue:
        stack.push_async_callback(lambda: asyncio.gather(*(c.close() for c in held)))
        lane = Lane(queue, organism)
        run = asyncio.create_task(lane.run())
        await asyncio.wait_for(lane.signals.idle.wait(), TIMEOUT)
        await asyncio.wait_for(take_every_connection(database, held), TIMEOUT)
        with pytest.raises(QueueUnavailable, match="has no connection left"):
            async with Queue(database):
                pass
        # The lane cannot get a connection; it goes on as soon as it can.
        await held[0].execute("INSERT INTO tasks (type) VALUES ('ok')")
        assert not lane.signals.settled.is_set()
        await asyncio.gather(*(held.pop().close() for _ in range(len(held) - 1)))
        await asyncio.wait_for(lane.signals.settled.wait(), TIMEOUT)
        lane.stop()
        assert (await asyncio.wait_for(run, TIMEOUT)).completed == 1
