"""The queue, method by method, on a real Postgres."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import ValidationError

from organism_flows.blocks.errors import ConfigurationError, QueueUnavailable, SchemaMismatch
from organism_flows.blocks.queue import NewTask, Outcomes, Queue
from organism_flows.blocks.queue.db.connection import describe
from organism_flows.blocks.queue.db.listener import Listener
from organism_flows.blocks.queue.db.migrate import MIGRATIONS
from organism_flows.blocks.queue.db.schema import SCHEMA_VERSION
from organism_flows.blocks.queue.db.statements import statement
from tests.conftest import Databases
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


async def test_a_plain_insert_is_a_ready_task(queue: Queue) -> None:
    await pool_of(queue).execute("INSERT INTO tasks (type, params) VALUES ('t', '{\"n\": 1}')")
    batch = await claim(queue)
    assert (batch.types, batch.params, batch.attempts) == (["t"], ['{"n": 1}'], [1])


async def test_an_explicit_null_run_after_means_now(queue: Queue) -> None:
    await pool_of(queue).execute("INSERT INTO tasks (type, run_after) VALUES ('t', NULL)")
    assert len(await claim(queue)) == 1


@pytest.mark.parametrize(
    ("columns", "values", "rule"),
    [
        ("type", "' '", "tasks_type_is_not_empty"),
        ("type, params", "'t', '[]'", "tasks_params_is_an_object"),
        ("type, drift_score", "'t', 'NaN'", "tasks_drift_score_is_finite"),
        ("type, max_attempts", "'t', 0", "tasks_max_attempts_is_positive"),
        ("type, timeout_s", "'t', 0", "tasks_timeout_s_is_positive"),
    ],
)
async def test_bad_rows_are_refused_by_name(queue: Queue, columns: str, values: str, rule: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await pool_of(queue).execute(f"INSERT INTO tasks ({columns}) VALUES ({values})")
    assert refused.value.constraint_name == rule


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"type": ""}, "type"),
        ({"type": "a\x00b"}, "type"),
        ({"type": "t", "params": {"x": float("nan")}}, "params"),
        ({"type": "t", "params": {"x": ["a\x00"]}}, "params"),
        ({"type": "t", "params": {"x": "\ud800"}}, "params"),
        ({"type": "t", "params": {"x": object()}}, "params"),
        ({"type": "t", "params": {"x": "y" * 2_000_000}}, "params"),
        ({"type": "t", "drift_score": float("inf")}, "drift_score"),
        ({"type": "t", "timeout_s": -1}, "timeout_s"),
        ({"type": "t", "colour": "red"}, "colour"),
    ],
)
async def test_bad_tasks_are_refused_by_field(fields: dict[str, object], place: str) -> None:
    with pytest.raises(ValidationError) as refused:
        NewTask.model_validate(fields)
    assert refused.value.errors()[0]["loc"][0] == place


async def test_a_claim_holds_short_and_long_params(queue: Queue) -> None:
    """Long ones come in rows of their own."""
    texts = ["x" * length for length in (1, 100_000, 10, 40_000, 2)]
    ids = await queue.submit([NewTask(type="t", params={"text": text}) for text in texts])
    batch = await claim(queue)
    claimed = {task_id: orjson.loads(params) for task_id, params in zip(batch.ids, batch.params, strict=True)}
    assert claimed == {str(id): {"text": text} for id, text in zip(ids, texts, strict=True)}
    assert len(set(batch.claims)) == len(batch.types) == len(batch.reclaimed) == 5
    assert (await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))).stale == []


async def test_priorities_decide_over_types_and_over_many_lines(queue: Queue) -> None:
    # More lines than the planner keeps in order by chance, and a type with several.
    for priority in (3, -4, 0, 5, -2, 1, 4, -1, 2, -3):
        await queue.submit([NewTask(type=f"t{n}", priority=priority) for n in range(2)])
    claimed = [await claim(queue, limit=3) for _ in range(7)]
    priorities = [[(await queue.get(i)).priority for i in batch.ids] for batch in claimed]
    assert [p for ps in priorities for p in sorted(ps, reverse=True)] == sorted(
        [*range(-4, 6)] * 2, reverse=True
    )


async def test_a_lower_line_of_a_type_comes_before_lower_lines_of_others(queue: Queue) -> None:
    await queue.submit([NewTask(type="t", priority=p) for p in (1, 0)])
    await queue.submit([NewTask(type="u", priority=-1) for _ in range(3)])
    assert sorted((await claim(queue, limit=3)).types) == ["t", "t", "u"]


async def test_a_claim_asks_few_lines_however_many_types_and_priorities_there_are(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def fetch(pool: asyncpg.Pool[Any], query: str, *arguments: Any, **options: Any) -> Any:
        if query == statement("claim").text:
            asked.append(len(arguments[2]))
        return await whole(pool, query, *arguments, **options)

    whole = asyncpg.Pool.fetch
    monkeypatch.setattr(asyncpg.Pool, "fetch", fetch)
    await queue.submit([NewTask(type=f"t{number}", priority=number % 3) for number in range(1500)])
    await queue.leases.register("lane")
    lines = queue.claims.lines("lane")
    priorities: list[int] = []
    while batch := await lines.claim(10, lambda _: 10):
        priorities += sorted((int(kind[1:]) % 3 for kind in batch.types), reverse=True)
    assert priorities == sorted(priorities, reverse=True)
    assert len(priorities) == 1500, "none is forgotten"
    await queue.submit([NewTask(type="t7")])
    lines.stale = True
    await lines.scan()
    assert (await lines.claim(10, lambda _: 10)).types == ["t7"], "what comes to one that was empty is found"
    assert max(asked) == 64


async def test_submitting_an_id_twice_says_so_and_adds_nothing(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="t")])
    with pytest.raises(ConfigurationError, match=str(task_id)):
        await queue.submit([NewTask(type="new"), NewTask(type="t", id=task_id)])
    assert (await queue.reader.counts())["queued"] == 1


async def test_an_unstorable_result_fails_its_own_task_only(queue: Queue) -> None:
    await queue.submit([NewTask(type="t") for _ in range(9)])
    batch = await claim(queue)
    outcomes = outcomes_of(batch, "completed", result='{"fine": true}')
    outcomes.results[1] = '"\\u0000"'
    outcomes.results[3] = "not json"
    outcomes.results[4] = "1e999999"
    outcomes.results[5] = "[" * 50_000 + "]" * 50_000
    outcomes.results[6] = '"\ud800"'
    outcomes.results[7] = "\x00"
    settled = await queue.claims.settle("lane", batch, outcomes)
    assert not settled.stale
    by_position = [settled.statuses[task_id] for task_id in batch.ids]
    assert by_position == ["completed", "failed", "completed", *["failed"] * 5, "completed"]
    for position in (1, 3, 4, 5, 6, 7):
        assert "cannot be stored" in ((await queue.get(batch.ids[position])).error or "")


async def test_each_completion_is_stored_as_it_was_where_some_are_equal(queue: Queue) -> None:
    """Columns of equal values travel as one value."""
    ids = await queue.submit([NewTask(type="t")] * 5)
    batch = await claim(queue)
    told: dict[str, tuple[str, str | None, str | None]] = {}
    for paths, organs, logs in (
        (["fast"], ["a"], [None]),
        (["fast", "escalated"], ["a", "a"], [None, "words"]),
        (["fallback", "fallback"], [None, "b"], ["same", "same"]),
    ):
        done = Outcomes()
        for path, organ, log in zip(paths, organs, logs, strict=True):
            position = len(told)
            done.add(position, "completed", "1", path=path, organ_id=organ)
            if log is not None:
                done.logs[batch.claims[position]] = log
            told[batch.ids[position]] = (path, organ, log)
        assert len((await queue.claims.settle("lane", batch, done)).statuses) == len(paths)
    rows = await pool_of(queue).fetch("SELECT id::text, path, organ_id, log FROM tasks")
    assert {id: tuple(told) for id, *told in rows} == told
    assert told.keys() == set(map(str, ids))


async def test_an_unstorable_error_text_does_not_sink_the_batch(queue: Queue) -> None:
    await queue.submit([NewTask(type="t", max_attempts=1) for _ in range(3)])
    batch = await claim(queue)
    outcomes = outcomes_of(batch, "failed", error="plain")
    outcomes.errors[1] = "NUL \x00 inside"
    settled = await queue.claims.settle("lane", batch, outcomes)
    assert set(settled.statuses.values()) == {"failed"}
    assert "cannot be stored" in ((await queue.get(batch.ids[1])).error or "")


async def test_failures_keep_their_history_and_successes_write_none(queue: Queue) -> None:
    await set_clock(queue, START)
    [task_id] = await queue.submit([NewTask(type="t", max_attempts=4)])
    for cause in ("failed", "timed_out", "completed"):
        batch = await claim(queue)
        await queue.claims.settle("lane", batch, outcomes_of(batch, cause, result="1", error=cause))
        await advance(queue, 10)
    task = await queue.get(str(task_id))
    assert (task.status, task.attempts, task.timed_out, task.result) == ("completed", 3, 1, 1)
    assert [(a.attempt, a.cause) for a in task.history] == [(1, "failed"), (2, "timed_out")]


async def test_backoff_doubles_up_to_its_cap(database: str) -> None:
    async with Queue(database, backoff_base_s=10, backoff_cap_s=35) as queue:
        await set_clock(queue, START)
        [task_id] = await queue.submit([NewTask(type="t", max_attempts=10)])
        delays = []
        for _ in range(4):
            batch = await claim(queue)
            now = await queue.reader.now()
            await queue.claims.settle("lane", batch, outcomes_of(batch, "failed", error="x"))
            due = (await queue.get(str(task_id))).run_after
            delays.append((due - now).total_seconds())
            await set_clock(queue, due)
            assert len(await queue.claims.claim("none", 1)) == 0
        for delay, longest in zip(delays, (10, 20, 35, 35), strict=True):
            assert longest / 2 <= delay <= longest


async def test_a_reaped_lane_is_told_and_its_outcome_is_stale(queue: Queue) -> None:
    await set_clock(queue, START)
    [task_id] = await queue.submit([NewTask(type="t")])
    old = await claim(queue, "old")
    await advance(queue, 16)
    assert (await queue.leases.reap()).retried == 1
    assert await queue.leases.renew("old") is None
    assert len(await queue.claims.claim("old", 1)) == 0
    new = await claim(queue, "new")
    assert new.ids == old.ids
    assert new.claims[0] > old.claims[0]
    assert (await queue.claims.settle("old", old, outcomes_of(old, "completed", result="1"))).stale == old.ids
    await queue.claims.settle("new", new, outcomes_of(new, "completed", result="2"))
    task = await queue.get(str(task_id))
    assert (task.result, task.attempts, task.lease_lost) == (2, 1, 1)


async def test_a_running_task_that_no_lane_holds_comes_back(queue: Queue) -> None:
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, status, locked_by) VALUES ('t', 'running', 'ghost')"
    )
    assert (await queue.leases.reap(strays=False)).retried == 0
    assert (await queue.leases.reap()).retried == 1
    with pytest.raises(asyncpg.CheckViolationError, match="tasks_running_is_held"):
        await pool_of(queue).execute("INSERT INTO tasks (type, status) VALUES ('t', 'running')")


async def test_a_task_that_outlives_ten_lanes_is_a_dead_letter(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="t")])
    for number in range(10):
        assert len(await claim(queue, f"lane-{number}")) == 1
        await queue.leases.deregister(f"lane-{number}")
        await queue.leases.reap()
    task = await queue.get(str(task_id))
    assert (task.status, task.lease_lost, task.attempts) == ("failed", 10, 0)
    assert "lease lost 10 times" in (task.error or "")


async def test_claims_nobody_knows_of_are_handed_back(queue: Queue) -> None:
    await queue.submit([NewTask(type="t") for _ in range(3)])
    known = await claim(queue, limit=1)
    unanswered = await claim(queue, limit=2)
    assert sorted(await queue.claims.release_unanswered("lane", holding=known.claims)) == sorted(
        unanswered.ids
    )
    assert (await queue.reader.counts())["running"] == 1


async def test_outlook(queue: Queue) -> None:
    await set_clock(queue, START)
    assert (await queue.reader.outlook()).empty
    await queue.submit([NewTask(type="later", run_after=START + timedelta(seconds=60))])
    outlook = await queue.reader.outlook()
    assert outlook.empty
    assert outlook.next_due_s == 60
    await advance(queue, 60)
    assert (await queue.reader.outlook()).ready
    batch = await claim(queue)
    assert (await queue.reader.outlook()).running
    await queue.claims.settle("lane", batch, outcomes_of(batch, "failed", error="x"))
    outlook = await queue.reader.outlook()
    assert outlook.backing_off
    assert not outlook.empty
    assert await queue.reader.remaining() == 1


async def test_get_by_prefix(queue: Queue) -> None:
    ids = await queue.submit([NewTask(type="t") for _ in range(3)])
    assert (await queue.get(str(ids[0])[:-2])).id == ids[0]
    with pytest.raises(ConfigurationError, match="hexadecimal"):
        await queue.get("' OR 1=1")
    with pytest.raises(ConfigurationError, match="no task"):
        await queue.get("00000000-0000-0000-0000-000000000000")
    await pool_of(queue).execute("UPDATE tasks SET id = overlay(id::text placing 'aaaa' from 1)::uuid")
    with pytest.raises(ConfigurationError, match="fits"):
        await queue.get("aaaa")


async def test_a_stop_reaches_every_lane_of_the_run_and_no_other(queue: Queue) -> None:
    await queue.leases.register("a", run="one")
    await queue.leases.register("b", run="one")
    await queue.leases.register("c", run="two")
    assert await queue.operator.request_stop("one") == 2
    asked = [await queue.leases.renew(lane) for lane in "abc"]
    assert [one and one.stop for one in asked] == [True, True, False]


@pytest.mark.parametrize(
    "dsn", ["postgresql://me:secret@127.0.0.1:1/db", "postgresql://", "nonsense", "http://x"]
)
async def test_a_database_that_is_not_there_is_one_line_without_the_password(dsn: str) -> None:
    with pytest.raises((QueueUnavailable, SchemaMismatch)) as failed:
        async with Queue(dsn):
            pass
    assert "secret" not in str(failed.value)
    assert "\n" not in str(failed.value)


def test_describe_shows_no_secret() -> None:
    assert describe("postgresql://me:secret@db.example:5433/tasks?sslmode=require") == "db.example:5433/tasks"


async def test_a_database_without_the_tables_says_what_to_do(databases: Databases) -> None:
    with pytest.raises(SchemaMismatch, match="organism migrate"):
        async with Queue(await databases.create(migrated=False)):
            pass


async def test_a_database_one_migration_behind_is_refused_by_its_version(database: str) -> None:
    newest = max(path.name[1:5] for path in (MIGRATIONS / "versions").glob("v*.py"))
    assert newest == SCHEMA_VERSION
    async with Queue(database) as queue:
        await pool_of(queue).execute("UPDATE organism_migrations SET version_num = '0007'")
    with pytest.raises(SchemaMismatch, match=f"of version 0007, and this needs version {newest}") as refused:
        async with Queue(database):
            pass
    assert "organism migrate" in refused.value.next_step


async def test_wakeups_come_by_notify_and_survive_a_broken_connection(queue: Queue) -> None:
    async with Listener(queue.direct_dsn) as listener:
        wake = listener.event
        await asyncio.wait_for(wake.wait(), 10)  # the first connection sets it too
        for statement in (
            "INSERT INTO tasks (type) VALUES ('t')",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'organism-listener' AND datname = current_database()",
        ):
            wake.clear()
            await pool_of(queue).execute(statement)
            await asyncio.wait_for(wake.wait(), 10)
        # Listening again: the next insert arrives without the fallback.
        while True:
            wake.clear()
            listening = await pool_of(queue).fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'organism-listener' "
                "AND datname = current_database() AND query LIKE 'LISTEN%'"
            )
            if listening:
                break
            await asyncio.wait_for(wake.wait(), 10)
        await pool_of(queue).execute("INSERT INTO tasks (type) VALUES ('t')")
        await asyncio.wait_for(wake.wait(), 10)


@pytest.mark.parametrize(
    "transition",
    [
        "UPDATE tasks SET status = 'queued' WHERE status = 'created'",
        "UPDATE tasks SET status = 'retry' WHERE status = 'failed'",
    ],
)
async def test_making_a_task_ready_in_sql_wakes(queue: Queue, transition: str) -> None:
    await pool_of(queue).execute("INSERT INTO tasks (type, status) VALUES ('t', 'created'), ('t', 'failed')")
    notified = asyncio.Event()
    connection = await asyncpg.connect(queue.dsn)
    try:
        await connection.add_listener("organism_tasks", lambda *_: notified.set())
        await pool_of(queue).execute(transition)
        await asyncio.wait_for(notified.wait(), 10)
    finally:
        await connection.close()
