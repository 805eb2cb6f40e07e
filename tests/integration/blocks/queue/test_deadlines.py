"""Tasks that expire: no attempt begins at that moment or later, and they end as dead letters that say so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError

from organism_flows.blocks.queue import NewTask, Queue
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue(database: str) -> AsyncIterator[Queue]:
    async with Queue(database, lease_s=15) as queue:
        await set_clock(queue, START)
        yield queue


async def test_a_task_that_expired_is_not_claimed_and_is_a_dead_letter(queue: Queue) -> None:
    late, other = await queue.submit([NewTask(type="t", expires_in_s=60), NewTask(type="t")])
    assert (await queue.get(str(late))).expires_at == START + timedelta(seconds=60)
    await advance(queue, 59)
    assert await queue.maintenance.expire() == 0
    await advance(queue, 1)
    assert (await claim(queue)).ids == [str(other)], "before anything has swept it"
    why = await queue.reader.why(str(late))
    assert why.reason == "expired"
    assert await queue.maintenance.expire() == 1
    assert await queue.maintenance.expire() == 0
    task = await queue.get(str(late))
    assert (task.status, task.error, task.attempts) == ("failed", "expired before it began", 0)
    assert [attempt.cause for attempt in task.history] == ["expired"]
    assert (await queue.reader.why(str(late))).reason == "dead_letter"


async def test_until_then_it_runs_as_any_other_and_what_runs_goes_on(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="t", expires_at=START + timedelta(seconds=60))])
    await advance(queue, 59)
    why = await queue.reader.why(str(task_id))
    assert "it expires at 2030-01-01 00:01:00 UTC" in why.sentence
    batch = await claim(queue)
    assert batch.ids == [str(task_id)]
    await advance(queue, 10)
    assert await queue.maintenance.expire() == 0
    await queue.leases.renew("lane")
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
    assert (await queue.get(str(task_id))).status == "completed"


async def test_a_task_that_failed_and_waits_expires_with_its_error(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="t", expires_in_s=60)])
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "failed", error="boom"))
    await advance(queue, 60)
    assert await queue.maintenance.expire() == 1
    task = await queue.get(str(task_id))
    assert (task.status, task.error) == ("failed", "expired before it was tried again: boom")
    assert [attempt.cause for attempt in task.history] == ["failed", "expired"]


async def test_created_and_paused_tasks_expire_too(queue: Queue) -> None:
    await queue.operator.pause("type", "t")
    await queue.submit([NewTask(type=t, expires_in_s=1, run_immediately=t == "t") for t in "tu"])
    await advance(queue, 1)
    assert await queue.maintenance.expire(page=1) == 2


async def test_a_retry_of_an_expired_task_is_meant(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="t", expires_in_s=1)])
    await advance(queue, 1)
    assert await queue.maintenance.expire() == 1
    assert (await queue.operator.retry([task_id])).retried == [task_id]
    assert (await claim(queue)).ids == [str(task_id)]


async def test_one_that_postgres_refuses_to_write_stops_no_other(queue: Queue) -> None:
    ids = await queue.submit([NewTask(type=t, expires_in_s=1) for t in ("a", "bad", "c")])
    await pool_of(queue).execute(
        "ALTER TABLE tasks ADD CONSTRAINT own CHECK (type <> 'bad' OR status <> 'failed')"
    )
    await advance(queue, 1)
    assert await queue.maintenance.expire() == 2
    assert [(await queue.get(str(i))).status for i in ids] == ["failed", "queued", "failed"]


async def test_sql_files_and_copies_can_say_it(queue: Queue, tmp_path: Path) -> None:
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, expires_at) VALUES ('t', queue_now() + interval '5 s')"
    )
    await queue.producer.load([NewTask(type="t", expires_in_s=6)])
    file = tmp_path / "tasks.jsonl"
    said: list[dict[str, Any]] = [{"expires_in_s": 7}, {"expires_at": START.isoformat()}]
    file.write_text("".join(json.dumps({"type": "t"} | each) + "\n" for each in said))
    await queue.producer.load_files([file])
    rows = await pool_of(queue).fetch("SELECT expires_at FROM tasks ORDER BY 1")
    seconds = [(row["expires_at"] - START).total_seconds() for row in rows]
    assert seconds == [0, 5, 6, 7]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"expires_in_s": 0}, "greater than 0"),
        ({"expires_in_s": float("nan")}, "finite"),
        ({"expires_in_s": 1, "expires_at": START}, "leave one out"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        NewTask(type="t", **fields)


async def test_a_moment_that_nobody_can_read_is_refused(queue: Queue) -> None:
    insert = "INSERT INTO tasks (type, expires_at) VALUES ('t', $1::text::timestamptz) RETURNING id"
    with pytest.raises(asyncpg.PostgresError, match="moments are in the years 1 to 9999"):
        await pool_of(queue).fetchval(insert, "10001-01-01")
    endless = await pool_of(queue).fetchval(insert, "infinity")
    assert (await queue.get(str(endless))).status == "queued"


async def test_values_of_a_new_row_are_refused_beyond_their_bounds_and_taken_at_them(queue: Queue) -> None:
    moments = ("created_at", "updated_at", "run_after", "expires_at", "locked_at", "begun_at", "finished_at")
    counters = ("attempts", "timed_out", "lease_lost", "interrupted")
    taken = [
        *((name, moment) for name in moments for moment in ("infinity", "-infinity")),
        *((name, moment) for name in moments for moment in ("0001-01-01+00", "9999-12-31 23:59:59+00")),
        *((name, count) for name in counters for count in ("0", "1000000")),
        ("suspicion", "0"),
        ("claim", str(2**53)),
    ]
    refused = [
        *((name, moment) for name in moments for moment in ("0001-12-31+00 BC", "10000-01-01+00")),
        *((name, count) for name in counters for count in ("-1", "1000001")),
        ("suspicion", "-1"),
        ("claim", "-1"),
        ("claim", str(2**53 + 1)),
    ]
    async with pool_of(queue).acquire() as connection:
        for name, value in taken:
            await connection.execute(f"INSERT INTO tasks (type, {name}) VALUES ('t', '{value}')")
        for name, value in refused:
            with pytest.raises(asyncpg.CheckViolationError, match=r"moments are in|claim is 0 to 2\^53"):
                await connection.execute(f"INSERT INTO tasks (type, {name}) VALUES ('t', '{value}')")


async def test_only_tasks_that_may_expire_are_in_the_index(queue: Queue) -> None:
    await queue.submit([NewTask(type="t") for _ in range(3000)])
    await queue.submit([NewTask(type="t", expires_in_s=60)])
    connection = await asyncpg.connect(queue.dsn)
    try:
        await connection.execute("VACUUM ANALYZE tasks")
        entries = await connection.fetchval(
            "SELECT reltuples FROM pg_class WHERE oid = 'tasks_expiring'::regclass"
        )
    finally:
        await connection.close()
    assert entries == 1
