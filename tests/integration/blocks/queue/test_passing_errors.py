"""Errors of Postgres that pass are waited out, on another session where the session is what is wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from organism_flows.blocks.errors import ConfigurationError, QueueUnavailable
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.db.connection import session_attributes
from organism_flows.blocks.queue.db.sqlstates import (
    CLASSES,
    STATES,
    TRANSIENT_ERRORS,
    of_state,
    raised_states,
    verdict,
)
from organism_flows.flows.lanes.lane import Lane
from tests.support.bouncer import bounced
from tests.support.flows.running_lanes import nothing_left_behind, running, submit, until_settled
from tests.support.queue.read_only import refusing_writes, set_read_only
from tests.support.scripted_organism import ScriptedOrganism
from tests.support.sql import pool_of
from tests.support.stack import until

TIMEOUT = 60
PASSING = ["25006", "25P02", "40001", "40P01", "53100", "53200", "53400", "55P03", "55006", "57014", "58030"]


def test_every_sqlstate_has_a_decision() -> None:
    known = raised_states()
    assert len(known) > 200
    undecided = {state for state in known if state not in STATES and state[:2] not in CLASSES}
    assert undecided == set()
    for state, kind in known.items():
        if kind is not asyncpg.InvalidCachedStatementError:  # shares its SQLSTATE with what stays
            assert issubclass(kind, TRANSIENT_ERRORS) == (of_state(state) == "passes"), state


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((kind("x"), "passes") for state, kind in raised_states().items() if state in PASSING),
        (asyncpg.TooManyConnectionsError("x"), "passes"),
        (asyncpg.AdminShutdownError("x"), "passes"),
        (asyncpg.ConnectionDoesNotExistError("x"), "passes"),
        (asyncpg.InterfaceError("connection is closed"), "passes"),
        (ConnectionResetError(), "passes"),
        (TimeoutError(), "passes"),
        (asyncpg.DataError("cannot encode"), "value"),
        (asyncpg.CheckViolationError("x"), "value"),
        (asyncpg.RaiseError("x"), "value"),
        (asyncpg.ProgramLimitExceededError("x"), "value"),
        (asyncpg.InvalidPasswordError("x"), "stays"),
        (asyncpg.UndefinedTableError("x"), "stays"),
        (asyncpg.InsufficientPrivilegeError("x"), "stays"),
        (RuntimeError("a mistake of ours"), "stays"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_the_decision(error: Exception, expected: str) -> None:
    assert verdict(error) == expected


@pytest.mark.anyio
@pytest.mark.parametrize("state", PASSING)
async def test_a_lane_waits_until_it_can_write(queue: Queue, state: str) -> None:
    organism = ScriptedOrganism()
    await submit(queue, "hang", "ok")
    lane = Lane(queue, organism, until_empty=True, batch_size=1)
    async with running(lane) as run:
        await until_settled(lane, 1)
        async with refusing_writes(queue.dsn, state):
            organism.let_go.set()
            await until(lambda: "not now" in lane._lease._trouble)
            assert not run.done()
        await asyncio.wait_for(run, TIMEOUT)
    assert (await queue.reader.counts())["completed"] == 2
    await nothing_left_behind(queue)


@pytest.mark.anyio
async def test_a_lane_outlives_a_database_that_is_read_only_for_a_while(queue: Queue) -> None:
    name = await pool_of(queue).fetchval("SELECT current_database()")
    organism = ScriptedOrganism()
    await submit(queue, "hang")
    lane = Lane(queue, organism)
    async with running(lane) as run:
        await asyncio.wait_for(organism.started.wait(), TIMEOUT)
        await set_read_only(queue.dsn, name, "on")
        organism.let_go.set()
        await until(lambda: "read-only" in lane._lease._trouble)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await queue.health.check_writes()
        # Not ended a second time: sessions that can only read are dropped by whoever has them.
        connection = await asyncpg.connect(
            queue.dsn, server_settings={"default_transaction_read_only": "off"}
        )
        await connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        await connection.close()
        await until_settled(lane, 1)
        await submit(queue, "ok")
        await until_settled(lane, 2)
        assert not run.done()
    assert (await queue.reader.counts())["completed"] == 2


@pytest.mark.anyio
async def test_sessions_that_can_only_read_are_dropped(database: str) -> None:
    async with Queue(database, connections=3) as queue:
        holders = [await pool_of(queue).acquire() for _ in range(3)]
        for connection in holders:
            await connection.execute("SET default_transaction_read_only = on")
            await pool_of(queue).release(connection)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await queue.submit([NewTask(type="t")])
        # All of them are gone: the first error says it of the others, too.
        for _ in range(3):
            await queue.submit([NewTask(type="t")])
        assert (await queue.reader.counts())["queued"] == 3


@pytest.mark.anyio
async def test_a_lock_that_is_not_had_in_time_is_waited_for(queue: Queue) -> None:
    name = await pool_of(queue).fetchval("SELECT current_database()")
    await pool_of(queue).execute(f"ALTER DATABASE \"{name}\" SET lock_timeout = '50ms'")
    async with Queue(queue.dsn) as hurried:
        organism = ScriptedOrganism()
        await submit(queue, "hang")
        lane = Lane(hurried, organism, until_empty=True)
        async with running(lane) as run:
            await asyncio.wait_for(organism.started.wait(), TIMEOUT)
            async with pool_of(queue).acquire() as holder, holder.transaction():
                await holder.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
                organism.let_go.set()
                await until(lambda: "lock timeout" in lane._lease._trouble)
            await asyncio.wait_for(run, TIMEOUT)
    assert (await queue.reader.counts())["completed"] == 1


@pytest.mark.anyio
@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
async def test_the_isolation_level_is_ours_whatever_the_database_says(database: str, level: str) -> None:
    async with Queue(database) as queue:
        name = await pool_of(queue).fetchval("SELECT current_database()")
        await pool_of(queue).execute(
            f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{level}'"
        )
    async with Queue(database) as queue:
        assert await pool_of(queue).fetchval("SHOW transaction_isolation") == "read committed"
    async with bounced(database) as pooled:
        with pytest.raises(ConfigurationError, match=f"are {level} by default"):
            await Queue(pooled).__aenter__()


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u@one/db", {}),
        ("postgresql:///db?host=/tmp&port=5432", {}),
        ("postgresql://u@one:1,two:2/db", {"target_session_attrs": "read-write"}),
        ("postgresql://u@/db?host=one,two", {"target_session_attrs": "read-write"}),
        ("postgresql://u@/db?host=one%2Ctwo", {"target_session_attrs": "read-write"}),
        ("postgresql://u@one,two/db?target_session_attrs=any", {}),
    ],
)
def test_of_several_hosts_one_that_takes_writes_is_chosen(dsn: str, expected: dict[str, Any]) -> None:
    assert session_attributes(dsn) == expected


@pytest.mark.anyio
async def test_hosts_that_can_only_be_read_are_one_line(database: str) -> None:
    url, _, options = database.partition("?host=")
    host, _, port = options.partition("&port=")
    several = f"{url}?host={host},{host}&port={port},{port}"
    async with Queue(several) as queue:
        name = await pool_of(queue).fetchval("SELECT current_database()")
        await pool_of(queue).execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with pytest.raises(QueueUnavailable, match=r"no Postgres at .* takes writes"):
        await Queue(several).__aenter__()
