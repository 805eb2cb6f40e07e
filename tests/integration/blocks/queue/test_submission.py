"""Adding tasks: duplicates, loading, ids that grow with time."""

from __future__ import annotations

import asyncio
import pickle
import re
from uuid import UUID, uuid4

import asyncpg
import pytest

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.db.listener import Listener
from organism_flows.blocks.queue.models.fields import encoded
from organism_flows.blocks.queue.wire import Cause
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.queue.sessions import blocked_on_a_row, open_transaction
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


def keyed(key: str | None = "k", type: str = "t", **fields: object) -> NewTask:
    return NewTask(type=type, dedup_key=key, **fields)


async def test_of_two_with_one_key_in_one_submit_the_second_is_the_first(queue: Queue) -> None:
    ids = await queue.submit([keyed(), keyed("other"), keyed(), keyed(None), keyed(None)])
    assert ids[0] == ids[2]
    assert len(set(ids)) == 4
    assert (await queue.reader.counts())["queued"] == 4


async def test_a_key_is_one_of_its_type(queue: Queue) -> None:
    ids = await queue.submit([keyed(type="t"), keyed(type="u")])
    assert await queue.submit([keyed(type="u"), keyed(type="t")]) == ids[::-1]


@pytest.mark.parametrize("end", ["completed", "rejected", "cancelled"])
async def test_a_key_is_free_again_when_its_task_has_ended(queue: Queue, end: Cause) -> None:
    [first] = await queue.submit([keyed()])
    assert await queue.submit([keyed()]) == [first], "while it waits"
    batch = await claim(queue)
    assert await queue.submit([keyed()]) == [first], "while it runs"
    await queue.claims.settle("lane", batch, outcomes_of(batch, "failed", error="x"))
    assert await queue.submit([keyed()]) == [first], "while it backs off"
    await pool_of(queue).execute("UPDATE tasks SET run_after = now()")
    batch = await claim(queue)
    if end == "cancelled":
        await queue.claims.release("lane", batch, cause="interrupted", error="x")
        await queue.operator.cancel([first])
    else:
        await queue.claims.settle("lane", batch, outcomes_of(batch, end, result="1", error="x"))
    [second] = await queue.submit([keyed()])
    assert second != first
    assert (await queue.get(str(second))).dedup_key == "k"


async def test_a_submit_with_duplicates_adds_the_others(queue: Queue) -> None:
    [first] = await queue.submit([keyed()])
    mine = uuid4()
    ids = await queue.submit([keyed("a"), keyed(), keyed("b", id=mine)])
    assert (ids[1], ids[2]) == (first, mine)
    assert {(await queue.get(str(i))).dedup_key for i in ids} == {"a", "k", "b"}


async def test_loading_adds_all_with_every_field(queue: Queue) -> None:
    full = NewTask(
        type="t", params={"n": 1}, description="d", domain="x", drift_score=0.5, priority=3,
        max_attempts=2, timeout_s=1.5, dedup_key="k", id=uuid4(),
    )  # fmt: skip
    assert await queue.producer.load(iter([full, NewTask(type="u")])) == 2
    task = await queue.get(str(full.id))
    for name in NewTask.model_fields.keys() - {"run_after", "run_immediately", "expires_in_s"}:
        assert getattr(task, name) == getattr(full, name), name
    assert task.run_after <= await queue.reader.now()
    assert sorted((await claim(queue)).types) == ["t", "u"]
    assert await queue.producer.load([]) == 0


async def test_loading_a_duplicate_adds_nothing_and_names_the_key_on_one_line(queue: Queue) -> None:
    await queue.submit([keyed("two\nlines")])
    with pytest.raises(ConfigurationError, match="two lines") as refused:
        await queue.producer.load([NewTask(type="new"), keyed("two\nlines"), NewTask(type="new")])
    assert "\n" not in str(refused.value)
    assert (await queue.reader.counts())["queued"] == 1
    [there] = await queue.submit([NewTask(type="t")])
    with pytest.raises(ConfigurationError, match=str(there)):
        await queue.producer.load([NewTask(type="new"), NewTask(type="t", id=there)])
    assert (await queue.reader.counts())["queued"] == 2


async def test_a_task_that_is_only_created_waits_to_be_started(queue: Queue) -> None:
    later = NewTask(type="t", run_immediately=False)
    [first] = await queue.submit([later])
    assert await queue.producer.load([later]) == 1
    assert (await queue.reader.counts())["created"] == 2
    assert len(await claim(queue)) == 0
    async with Listener(queue.direct_dsn) as listener:
        wake = listener.event
        await asyncio.wait_for(wake.wait(), 10)
        wake.clear()
        assert await queue.operator.start([first, uuid4()]) == [first]
        await asyncio.wait_for(wake.wait(), 10)
    assert await queue.operator.start([first]) == []
    assert (await claim(queue)).ids == [str(first)]


async def test_loading_wakes_a_lane(queue: Queue) -> None:
    async with Listener(queue.direct_dsn) as listener:
        wake = listener.event
        await asyncio.wait_for(wake.wait(), 10)
        wake.clear()
        await queue.producer.load([NewTask(type="t")])
        await asyncio.wait_for(wake.wait(), 10)


async def test_a_task_without_a_key_never_keeps_another_out(queue: Queue) -> None:
    assert len(set(await queue.submit([NewTask(type="t", params={"same": 1}) for _ in range(3)]))) == 3


@pytest.mark.parametrize("fields", [{"dedup_key": ""}, {"dedup_key": "x" * 201}, {"dedup_key": "a\x00"}])
def test_bad_keys_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="dedup_key"):
        NewTask(type="t", **fields)


@pytest.mark.parametrize(
    ("table", "columns", "values"),
    [
        ("task_types", "type, max_attempts", "'t', 0"),
        ("task_types", "type, timeout_s", "'t', 'Infinity'"),
        ("task_types", "type, backoff_base_s", "'t', -1"),
        ("task_types", "type", "' '"),
        ("pauses", "kind, name", "'colour', 'red'"),
        ("pauses", "kind, name", "'type', ''"),
    ],
)
async def test_bad_policies_and_pauses_are_refused(
    queue: Queue, table: str, columns: str, values: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await pool_of(queue).execute(f"INSERT INTO {table} ({columns}) VALUES ({values})")


async def test_two_unfinished_tasks_with_one_key_are_refused_in_sql_too(queue: Queue) -> None:
    await pool_of(queue).execute("INSERT INTO tasks (type, dedup_key) VALUES ('t', 'k')")
    with pytest.raises(asyncpg.UniqueViolationError) as refused:
        await pool_of(queue).execute("INSERT INTO tasks (type, dedup_key) VALUES ('t', 'k')")
    assert refused.value.constraint_name == "tasks_dedup"


# Ids


def is_of_version_7(task_id: UUID) -> bool:
    return task_id.version == 7 and task_id.variant == "specified in RFC 4122"


async def test_ids_grow_with_time_from_python_and_from_sql(queue: Queue) -> None:
    ids = []
    for _ in range(5):
        ids += await queue.submit([NewTask(type="t") for _ in range(3)])
        ids += [
            row["id"]
            for row in await pool_of(queue).fetch(
                "INSERT INTO tasks (type) VALUES ('t') RETURNING id, pg_sleep(0.002)"
            )
        ]
    assert all(map(is_of_version_7, ids))
    milliseconds = [i.int >> 80 for i in ids]
    assert milliseconds == sorted(milliseconds)
    assert ids[:3] == sorted(ids[:3]), "within one submit too: that is the order they run in"


async def test_ids_before_postgres_18_are_of_the_same_kind(queue: Queue) -> None:
    from organism_flows.blocks.queue.migrations.versions import v0002_engine

    script = v0002_engine.__file__.replace(".py", ".sql")
    with open(script, encoding="utf-8") as file:
        [body] = re.findall(r"AS \$f\$(.*?)\$f\$", file.read(), re.DOTALL)
    ids, moments = [], []
    for _ in range(50):
        row = await pool_of(queue).fetchrow(
            f"SELECT ({body}) AS id, extract(epoch FROM clock_timestamp()) * 1000 AS ms, pg_sleep(0.002)"
        )
        assert row is not None
        ids.append(row["id"])
        moments.append(float(row["ms"]))
    assert all(map(is_of_version_7, ids))
    assert ids == sorted(ids)
    assert len({i.int & (2**62 - 1) for i in ids}) == len(ids), "the rest is chance"
    for task_id, moment in zip(ids, moments, strict=True):
        assert abs((task_id.int >> 80) - moment) < 100


async def deadlocks(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        found = await connection.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        return int(found)
    finally:
        await connection.close()


async def test_two_producers_of_the_same_keys_wait_for_one_another(database: str) -> None:
    async with Queue(database) as queue, Queue(database) as one, Queue(database) as two:
        async with open_transaction(queue) as holder:
            await holder.execute("INSERT INTO tasks (type, dedup_key) VALUES ('t', 'm')")
            producers = []
            for number, (producer, keys) in enumerate(((one, "amz"), (two, "zma")), 1):
                submission = producer.submit([keyed(key) for key in keys])
                producers.append(asyncio.create_task(submission))
                await blocked_on_a_row(queue, number)
        [first, second] = await asyncio.wait_for(asyncio.gather(*producers), 60)
        assert first == second[::-1]
        assert (await queue.reader.counts())["queued"] == 3
    assert await deadlocks(database) == 0


async def test_a_submission_that_is_the_victim_of_a_deadlock_is_made_again(database: str) -> None:
    superuser = database.replace("//organism@", "//postgres@")  # as who that timeout may be set
    async with Queue(superuser) as queue:
        name = await pool_of(queue).fetchval("SELECT current_database()")
        await pool_of(queue).execute(f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '2s'")
    async with Queue(superuser) as queue, Queue(database) as producer:
        async with open_transaction(queue) as holder:
            # So that the other one is the victim.
            await holder.execute("SET LOCAL deadlock_timeout = '100s'")
            await holder.execute("INSERT INTO tasks (type, dedup_key) VALUES ('t', 'z')")
            submission = asyncio.create_task(producer.submit([keyed("a"), keyed("z")]))
            await blocked_on_a_row(queue)
            await holder.execute("INSERT INTO tasks (type, dedup_key) VALUES ('t', 'a')")
        await asyncio.wait_for(submission, 60)
        assert (await queue.reader.counts())["queued"] == 2
    # More than one if it tries again before the other has been woken.
    assert await deadlocks(database) >= 1


async def test_params_are_encoded_once_and_so_cannot_be_changed(queue: Queue) -> None:
    task = NewTask(type="t", params={"n": 1})
    assert encoded(task.params) is task.params
    with pytest.raises(TypeError, match="make a new task"):
        task.params["n"] = 2
    with pytest.raises(TypeError, match="make a new task"):
        task.params |= {"n": 2}
    sent = pickle.loads(pickle.dumps(task))
    assert sent == task
    [task_id] = await queue.submit([sent])
    assert (await queue.get(str(task_id))).params == {"n": 1}
