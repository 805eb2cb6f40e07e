"""The order that policies of types ask for: by age, by deadline, by key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from pydantic import ValidationError

from organism_flows.blocks.queue import Batch, ClaimLines, Limit, NewTask, Queue, TypePolicy
from tests.support.clock import START, advance, set_clock
from tests.support.queue.plans import explain, rolled_back
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue(database: str) -> AsyncIterator[Queue]:
    async with Queue(database, lease_s=1e6) as queue:
        await set_clock(queue, START)
        await queue.leases.register("lane")
        yield queue


async def add(queue: Queue, number: int = 1, **fields: object) -> list[str]:
    ids = await queue.submit([NewTask(**{"type": "t", **fields}) for _ in range(number)])
    return [str(i) for i in ids]


def lines_of(queue: Queue, clock: list[float]) -> ClaimLines:
    return queue.claims.lines("lane", clock=lambda: clock[0])


async def keys_of(queue: Queue, batch: Batch) -> set[str]:
    rows = await pool_of(queue).fetch("SELECT key FROM tasks WHERE id = ANY ($1::uuid[])", batch.ids)
    return {row["key"] for row in rows}


async def test_a_low_priority_that_ages_is_claimed_beside_an_endless_higher_one(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", aging_s=60))
    [low] = await add(queue)
    for seconds in (0, 60, 120):
        await add(queue, 5, priority=3, run_after=START + timedelta(seconds=seconds))
        batch = await queue.claims.claim("lane", 5)
        assert low not in batch.ids, seconds
        await advance(queue, 60)
    await add(queue, 5, priority=3)
    assert low in (await queue.claims.claim("lane", 5)).ids, "it counts as much as they do by now"


async def test_without_the_policy_priority_is_strict(queue: Queue) -> None:
    [low] = await add(queue)
    await advance(queue, 1e6)
    await add(queue, 5, priority=1)
    assert low not in (await queue.claims.claim("lane", 5)).ids


async def test_the_earliest_deadline_is_claimed_first(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", earliest_deadline=True))
    plain = await add(queue, 2)
    late = await add(queue, expires_in_s=3000)
    soon = await add(queue, expires_in_s=30)
    scheduled = await add(queue, expires_in_s=20, run_after=START + timedelta(seconds=10))
    middle = await add(queue, expires_in_s=300)
    lines = lines_of(queue, clock := [0.0])
    taken = [(await lines.claim(1, lambda _: 1)).ids for _ in range(3)]
    assert taken == [soon, middle, late]
    sooner = await add(queue, expires_in_s=5)
    clock[0] += 2.0  # the next scan begins again
    assert (await lines.claim(1, lambda _: 1)).ids == sooner
    rest = await lines.claim(9, lambda _: 9)
    assert rest.ids == plain
    await advance(queue, 10)
    await lines.scan()
    assert (await lines.claim(9, lambda _: 9)).ids == scheduled


async def test_what_does_not_expire_is_claimed_right_after(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", earliest_deadline=True))
    plain = await add(queue, 2)
    soon = await add(queue, expires_in_s=30)
    lines = lines_of(queue, [0.0])
    assert (await lines.claim(9, lambda _: 9)).ids == soon
    assert not lines.exhausted, "a lane would wait for the next scan"
    assert (await lines.claim(9, lambda _: 9)).ids == plain
    assert lines.exhausted


async def test_deadlines_are_an_order_among_equals_only(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", earliest_deadline=True))
    await queue.operator.set_policy(TypePolicy(type="u"))
    high = await add(queue, priority=1, expires_in_s=1000)
    await add(queue, 2, expires_in_s=10, key="a")
    await add(queue, 2, expires_in_s=500, key="b")
    other = await add(queue, 2, type="u", expires_in_s=1)
    first = await add(queue, 1, type="u")
    lines = lines_of(queue, [0.0])
    batch = await lines.claim(1, lambda _: 1, lambda *_: "t")
    assert batch.ids == high
    both = Batch()
    while len(both) < 2:
        both.extend(await lines.claim(2 - len(both), lambda stream: 2 if stream == "t" else 0))
    assert await keys_of(queue, both) == {"a", "b"}, "keys share as ever"
    batch = await lines.claim(3, lambda stream: 3 if stream == "u" else 0)
    assert batch.ids == [*other, *first], "u has not asked for it"


async def test_each_deadline_is_claimed_once_whatever_the_room(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", earliest_deadline=True))
    given = {
        (await add(queue, key=f"k{n % 3}", expires_in_s=float(1000 - 7 * n % 60)))[0]: (n % 3, -(7 * n % 60))
        for n in range(60)
    }
    ids = [*given, *await add(queue, 10)]
    lines = lines_of(queue, [0.0])
    taken: list[str] = []
    for limit in (1, 2, 7, 30, 5) * 10:
        # Of what lines have room for, the limit leaves a part.
        batch = await lines.claim(limit, lambda _, limit=limit: 2 * limit)  # type: ignore[misc]
        assert len(batch) <= limit
        taken += batch.ids
    assert sorted(taken) == sorted(ids)
    for key in range(3):
        order = [given[task][1] for task in taken if given.get(task, (-1,))[0] == key]
        assert order == sorted(order), "along its deadlines"


async def test_types_with_a_limit_on_cost_are_claimed_in_their_usual_order(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", earliest_deadline=True))
    await queue.operator.set_limit(Limit(name="units", kind="cost", amount=100, period_s=60))
    ids = [*await add(queue, expires_in_s=500), *await add(queue, expires_in_s=5)]
    assert (await queue.claims.claim("lane", 1)).ids == ids[:1]
    assert (await queue.claims.claim("lane", 1)).ids == ids[1:]


async def test_claims_by_deadline_read_what_they_take(queue: Queue) -> None:
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, key, run_after, expires_at) "
        "SELECT 't', 'k' || i % 3, queue_now(), queue_now() + make_interval(secs => i) "
        "FROM generate_series(1, 6000) i"
    )
    async with rolled_back(queue) as session:
        scans, _ = await explain(
            session,
            "earliest",
            types=["t"] * 3,
            priorities=[0] * 3,
            domains=[""] * 3,
            keys=["k0", "k1", "k2"],
            quotas=[10] * 3,
            after=[None] * 3,
            after_ids=[None] * 3,
        )
    assert [(scan.index, scan.rows) for scan in scans] == [("tasks_by_deadline", 30)]


async def test_only_tasks_that_expire_are_in_the_index_of_deadlines(queue: Queue) -> None:
    await add(queue, 2000)
    await add(queue, 1, expires_in_s=60)
    connection = await asyncpg.connect(queue.dsn)
    try:
        await connection.execute("VACUUM ANALYZE tasks")
        entries = await connection.fetchval(
            "SELECT reltuples FROM pg_class WHERE oid = 'tasks_by_deadline'::regclass"
        )
    finally:
        await connection.close()
    assert entries == 1


async def test_claimed_tasks_know_when_they_expire_if_their_type_asks(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", timeout_by_deadline=True))
    bounded_ids = await add(queue, expires_in_s=60)
    await add(queue)
    await add(queue, type="u", expires_in_s=60)
    await advance(queue, 20)
    batch = await queue.claims.claim("lane", 9)
    assert len(batch) == 3
    [bounded] = bounded_ids
    assert batch.expires_s == {batch.claims[batch.ids.index(bounded)]: 40.0}


async def test_keys_are_claimed_a_few_at_a_time_and_named_in_the_batch(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", affinity_s=30, affinity_keys=2))
    for key in ("a", "b", "c", "d"):
        await add(queue, 3, key=key)
    await add(queue, 1, key=None)
    lines = lines_of(queue, clock := [0.0])
    batch = Batch()
    while len(batch) < 7:
        batch.extend(await lines.claim(4, lambda _: 4))
    assert await keys_of(queue, batch) == {"a", "b", None}
    assert sorted(batch.keys.values()) == ["a"] * 3 + ["b"] * 3
    assert not len(await lines.claim(9, lambda _: 9))
    assert lines.exhausted, "no lane goes on asking for them"
    assert 0 < lines.turns.next_s <= 30
    clock[0] += 30.0
    await advance(queue, 30)
    await lines.scan()
    later = Batch()
    while len(later) < 6:
        later.extend(await lines.claim(9, lambda _: 9))
    assert await keys_of(queue, later) == {"c", "d"}


async def test_many_keys_are_claimed_by_turns_too(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", affinity_s=10, affinity_keys=3))
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, key) SELECT 't', 'k' || i % 150 FROM generate_series(1, 600) i"
    )
    lines = lines_of(queue, clock := [0.0])
    taken = Batch()
    for _ in range(2000):
        batch = await lines.claim(50, lambda _: 50)
        assert len(set(batch.keys.values())) <= 3
        taken.extend(batch)
        if len(taken) == 600:
            break
        if not len(batch):
            clock[0] += 2.0
            await advance(queue, 2)
            await lines.scan()
    assert len(taken) == 600


async def test_policies_come_back_as_they_were_set(queue: Queue) -> None:
    policy = TypePolicy(
        type="t",
        aging_s=60,
        affinity_s=5,
        affinity_keys=3,
        earliest_deadline=True,
        timeout_by_deadline=True,
    )
    await queue.operator.set_policy(policy)
    assert await queue.operator.policies() == [policy]
    await queue.operator.set_policy(TypePolicy(type="t"))
    assert await queue.operator.policies() == [TypePolicy(type="t")]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"aging_s": 0}, "greater than 0"),
        ({"aging_s": float("nan")}, "finite"),
        ({"affinity_s": -1}, "greater than 0"),
        ({"affinity_s": 1e9}, "less than or equal to 86400"),
        ({"affinity_s": 1, "affinity_keys": 0}, "greater than or equal to 1"),
        ({"affinity_keys": 3}, "affinity_keys needs affinity_s"),
    ],
)
async def test_what_makes_no_sense_is_refused(fields: dict[str, float], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        TypePolicy(type="t", **fields)


async def test_postgres_refuses_it_too(queue: Queue) -> None:
    for column, value in (("aging_s", "'NaN'"), ("affinity_s", "0"), ("affinity_keys", "0")):
        with pytest.raises(asyncpg.CheckViolationError):
            await pool_of(queue).execute(f"INSERT INTO task_types (type, {column}) VALUES ('t', {value})")


async def complete(queue: Queue, number: int) -> None:
    """Have so many tasks completed in the last 10 seconds."""
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, status, finished_at) "
        "SELECT 't', 'completed', queue_now() - i * 10.0 / $1 * interval '1 s' FROM generate_series(1, $1) i",
        number,
    )


async def test_why_says_what_the_order_does_with_a_task(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", aging_s=60, affinity_s=20, earliest_deadline=True))
    [plain] = await add(queue, key="a", priority=2)
    await add(queue, 3, key="a", priority=2, expires_in_s=500)
    [last] = await add(queue, key="a", priority=2, expires_in_s=900)
    await advance(queue, 150)
    why = await queue.reader.why(plain)
    assert why.ahead == 4, "whatever expires comes first"
    assert "it counts as priority 4 because it has waited, not as 2" in why.sentence
    assert "of its line, the tasks that expire first come first" in why.sentence
    assert "it may wait about 20 s for the turn of key a" in why.sentence
    assert (await queue.reader.why(last)).ahead == 3
    await queue.operator.set_policy(TypePolicy(type="t"))
    why = await queue.reader.why(plain)
    assert why.ahead == 0
    assert "counts as" not in why.sentence
    assert "turn" not in why.sentence


async def test_why_says_that_a_task_will_be_late(queue: Queue) -> None:
    await add(queue, 30)
    [late] = await add(queue, expires_in_s=10)
    [soon] = await add(queue, priority=1, expires_in_s=10)
    assert "before it can begin" not in (await queue.reader.why(late)).sentence, "no rate is known"
    await complete(queue, 20)
    why = await queue.reader.why(late)
    said = "it expires before it can begin: 30 tasks come before it, 2 a second of its type complete"
    assert said in why.sentence
    assert "it has 10 s left" in why.sentence
    assert "add replicas or lanes" in (why.next_step or "")
    assert "before it can begin" not in (await queue.reader.why(soon)).sentence
    await complete(queue, 100)
    assert "before it can begin" not in (await queue.reader.why(late)).sentence


async def test_what_cannot_begin_in_time_in_any_order_is_counted(queue: Queue) -> None:
    await add(queue, 50, expires_in_s=10)
    await add(queue, 5, expires_in_s=1000)
    await add(queue, 5, type="u", expires_in_s=1)
    assert await queue.health.late(at_most=100) == {}, "no rate is known"
    await complete(queue, 20)
    # Of 50, 2 a second begin within 10 s.
    assert await queue.health.late(at_most=100) == {"t": 30}
    await complete(queue, 40)
    assert await queue.health.late(at_most=100) == {"t": 0}
