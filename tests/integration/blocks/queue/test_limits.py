"""Limits: never exceeded by any number of lanes, never in the way of other tasks, free where none is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError

from organism_flows.blocks.queue import Batch, ClaimLines, Limit, NewTask, Queue
from organism_flows.blocks.queue.stores.claiming import claim_lines, line_pages
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import outcomes_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lines(queue: Queue) -> ClaimLines:
    await set_clock(queue, START)
    await queue.leases.register("lane")
    return queue.claims.lines("lane")


async def add(queue: Queue, number: int, *, kind: str = "t", keys: tuple[str | None, ...] = (None,)) -> None:
    await queue.submit([NewTask(type=kind, key=key) for key in keys for _ in range(number)])


async def claim(lines: ClaimLines, limit: int = 100) -> Batch:
    await lines.scan()
    return await lines.claim(limit, lambda _: limit)


async def done(queue: Queue, batch: Batch) -> None:
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))


async def keys_of(queue: Queue, batch: Batch) -> Counter[str | None]:
    return Counter([(await queue.get(task_id)).key for task_id in batch.ids])


async def test_no_more_run_at_once_than_a_limit_allows(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(Limit(name="api", kind="running", types=["t"], amount=3))
    await add(queue, 10)
    await add(queue, 5, kind="other")
    batch = await claim(lines)
    assert Counter(batch.types) == {"t": 3, "other": 5}
    assert lines.limits.reached
    assert not await claim(lines)
    await done(queue, batch.take([n for n, kind in enumerate(batch.types) if kind == "t"][:2]))
    assert (await claim(lines)).types == ["t", "t"]


async def test_each_key_has_its_own_amount_and_a_full_one_blocks_nobody(
    queue: Queue, lines: ClaimLines
) -> None:
    limit = Limit(name="customers", kind="running", by_key=True, amount=2, exceptions={"big": 4, "shut": 0})
    await queue.operator.set_limit(limit)
    assert [dict(one) for one in await queue.operator.limits()] == [
        dict(limit) | {"running": {}, "left": {}, "spent": {}, "declared": False}
    ]
    await add(queue, 20, keys=("a", "big", "shut", None))
    taken: Counter[str | None] = Counter()
    for _ in range(5):
        taken += await keys_of(queue, await claim(lines))
    assert taken == {"a": 2, "big": 4, None: 2}
    await add(queue, 1, keys=("new",))
    assert await keys_of(queue, await claim(lines)) == {"new": 1}


async def test_limits_combine_and_the_narrowest_counts(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(Limit(name="all", kind="running", amount=5))
    await queue.operator.set_limit(Limit(name="each", kind="running", by_key=True, amount=3))
    await add(queue, 9, keys=("a", "b"))
    assert sorted((await keys_of(queue, await claim(lines))).values()) == [2, 3]


async def one_after_another(
    queue: Queue, lines: ClaimLines, claims: int, *, limit: int = 100, in_vain: int = 1
) -> AsyncIterator[Batch]:
    """Batches of claims without a scan in between, each done before the next; while it runs, all is full."""
    for _ in range(claims):
        batch = await lines.claim(limit, lambda _: limit)
        yield batch
        for _ in range(in_vain):
            assert not await lines.claim(limit, lambda _: limit), "it is full"
        await done(queue, batch)


@pytest.mark.parametrize("limit", [2, 3, 100])
async def test_keys_take_turns_with_what_a_limit_has_left_for_all(
    queue: Queue, lines: ClaimLines, limit: int
) -> None:
    await queue.operator.set_limit(Limit(name="all", kind="running", amount=2))
    await queue.operator.set_weight("b", 2)
    await add(queue, 20, keys=tuple("abc"))
    taken: Counter[str | None] = Counter()
    async for batch in one_after_another(queue, lines, 12, limit=limit):
        assert len(batch) == 2
        taken += await keys_of(queue, batch)
    assert taken == {"a": 6, "b": 12, "c": 6}


@pytest.mark.parametrize("in_vain", [0, 1, 2, 3])
async def test_types_take_turns_with_what_a_limit_has_left_for_all(
    queue: Queue, lines: ClaimLines, in_vain: int
) -> None:
    await queue.operator.set_limit(Limit(name="all", kind="running", amount=1))
    for kind in "tuv":
        await add(queue, 9, kind=kind)
    taken: Counter[str] = Counter()
    async for batch in one_after_another(queue, lines, 12, in_vain=in_vain):
        taken.update(batch.types)
    assert taken == {"t": 4, "u": 4, "v": 4}


@pytest.mark.parametrize("in_vain", [0, 1, 2])
async def test_keys_of_all_pages_take_turns_with_what_a_limit_has_left(
    queue: Queue, lines: ClaimLines, monkeypatch: pytest.MonkeyPatch, in_vain: int
) -> None:
    monkeypatch.setattr(claim_lines, "LINES_AT_ONCE", 4)
    monkeypatch.setattr(line_pages, "PAGE_LINES", (4, 4))
    await queue.operator.set_limit(Limit(name="all", kind="running", amount=3))
    keys = tuple("abcdefghijkl")
    await add(queue, 4, keys=keys)
    taken: Counter[str | None] = Counter()
    async for batch in one_after_another(queue, lines, 12, in_vain=in_vain):
        assert len(batch) == 3
        taken += await keys_of(queue, batch)
    assert taken == dict.fromkeys(keys, 3)


async def test_a_lane_remembers_what_it_holds_and_reads_all_else(queue: Queue) -> None:
    await queue.operator.set_limit(Limit(name="each", kind="running", by_key=True, amount=3))
    await queue.leases.register("lane")
    await queue.leases.register("other")
    holding: set[int] = set()
    lines = queue.claims.lines("lane", holding=lambda: holding)
    await add(queue, 20, keys=("a", "b"))
    [key] = await keys_of(queue, await queue.claims.claim("other", 1))
    mine = Batch()
    for _ in range(3):
        mine.extend(more := await lines.claim(2, lambda _: 2))
        holding.update(more.claims)
    assert len(mine) == 5
    assert (await keys_of(queue, mine))[key] == 2
    assert not await lines.claim(9, lambda _: 9)
    await done(queue, mine)
    holding.clear()
    # What it has not claimed itself, as before a limit was set, it does not remember.
    holding.update((await queue.claims.claim("lane", 6)).claims)
    assert not await lines.claim(9, lambda _: 9)


async def test_a_line_that_has_become_empty_keeps_no_room_of_a_limit(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(Limit(name="all", kind="running", amount=2))
    await queue.submit([NewTask(type="t", priority=number) for number in (1, 1, 0)])
    batch = await claim(lines)
    assert len(batch) == 2
    await done(queue, batch)
    assert len(await claim(lines)) == 1, "the line of the higher priority is empty by now"


async def test_a_priority_that_has_become_empty_keeps_no_room_of_a_key(
    queue: Queue, lines: ClaimLines
) -> None:
    await queue.operator.set_limit(Limit(name="each", kind="running", by_key=True, amount=2))
    await queue.submit(
        [NewTask(type=kind, priority=number) for kind, number in (("u", 1), ("t", 0), ("u", 0))]
    )
    first, second = [await lines.claim(3, lambda _: 3) for _ in range(2)]
    assert (first.types, second.types) == (["u"], ["t"])


async def test_lanes_that_claim_together_exceed_nothing(queue: Queue) -> None:
    await queue.operator.set_limit(Limit(name="each", kind="running", by_key=True, amount=2))
    await add(queue, 10, keys=tuple(f"k{number}" for number in range(20)))
    lanes = []
    for number in range(4):
        await queue.leases.register(f"lane{number}")
        lanes.append(queue.claims.lines(f"lane{number}"))
    for _ in range(4):
        await asyncio.gather(*(claim(lines, 30) for lines in lanes))
    rows = await running(queue, "SELECT key, count(*) FROM tasks WHERE status = 'running' GROUP BY 1")
    assert {row["count"] for row in rows} == {2}
    assert len(rows) == 20


async def running(queue: Queue, sql: str) -> list[Any]:
    connection = await asyncpg.connect(queue.dsn)
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


async def test_what_a_dead_lane_held_counts_until_it_is_taken_back(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(Limit(name="one", kind="running", amount=1))
    await add(queue, 3)
    assert len(await claim(lines)) == 1
    await advance(queue, 60)
    await queue.leases.register("other")
    others = queue.claims.lines("other")
    assert not await claim(others)
    assert (await queue.leases.reap()).retried == 1
    assert len(await claim(others)) == 1


@pytest.mark.parametrize(
    ("amount", "period_s", "burst"), [(1, 10, None), (10, 1, None), (50, 10, 20), (7, 3, 7)]
)
async def test_no_more_begin_in_any_period_than_a_rate_allows(
    queue: Queue, lines: ClaimLines, amount: int, period_s: float, burst: int | None
) -> None:
    await queue.operator.set_limit(
        Limit(name="calls", kind="rate", amount=amount, period_s=period_s, burst=burst)
    )
    await add(queue, 6 * amount + 10)
    began: list[float] = []
    seconds = 0.0
    step = period_s / 25
    while seconds < 5 * period_s:
        batch = await claim(lines, 1000)
        began += [seconds] * len(batch)
        await done(queue, batch)
        seconds += step
        await advance(queue, step)
        await queue.leases.renew("lane")
    for first in began:
        assert sum(first <= moment < first + period_s - 1e-6 for moment in began) <= amount
    # As many as there may be, less what a burst keeps back and what a step is too coarse for.
    lasting = (amount - (burst or 1) + 1) / amount
    assert len(began) >= 0.8 * 5 * amount * lasting - 1


async def test_the_lane_knows_when_a_rate_allows_more(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(Limit(name="calls", kind="rate", amount=1, period_s=60))
    await add(queue, 2)
    assert len(await claim(lines)) == 1
    assert not await claim(lines)
    assert lines.limits.reached
    assert lines.limits.next_s == pytest.approx(60)
    await advance(queue, 45)
    assert not await claim(lines)
    assert lines.limits.next_s == pytest.approx(15)


async def test_a_clock_that_is_set_back_allows_nothing_more(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(Limit(name="calls", kind="rate", amount=2, period_s=60, burst=2))
    await add(queue, 9)
    assert len(await claim(lines)) == 2
    await set_clock(queue, START - timedelta(hours=1))
    await queue.leases.renew("lane")
    assert not await claim(lines)
    await set_clock(queue, START + timedelta(seconds=1))
    assert not await claim(lines)


async def test_why_names_the_limit_and_when_there_will_be_room(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(Limit(name="few", kind="running", types=["t"], by_key=True, amount=1))
    await queue.operator.set_limit(Limit(name="slow", kind="rate", types=["u"], amount=1, period_s=60))
    await queue.operator.set_limit(Limit(name="shut", kind="running", types=["v"], amount=0))
    await add(queue, 1, keys=("a",))
    await add(queue, 1, kind="u")
    await claim(lines)
    waiting = {}
    for kind, key in (("t", "a"), ("u", None), ("v", None), ("t", "b")):
        [task_id] = await queue.submit([NewTask(type=kind, key=key)])
        waiting[kind, key] = await queue.reader.why(str(task_id))
    assert [why.reason for why in waiting.values()] == ["limited", "limited", "limited", "in_line"]
    assert "limit few allows 1 at once for key a, and as many run" in waiting["t", "a"].sentence
    assert "the rate of limit slow is used up" in waiting["u", None].sentence
    assert waiting["u", None].until == START + timedelta(seconds=60)
    assert "limit shut allows none" in waiting["v", None].sentence
    assert waiting["v", None].next_step == "raise it: `organism limits set shut`"
    used = {limit.name: limit for limit in await queue.operator.limits()}
    assert used["few"].running == {"a": 1}
    assert used["slow"].left == {"": 0}


async def test_levels_that_are_full_again_are_forgotten(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(
        Limit(name="each", kind="rate", by_key=True, amount=3, period_s=10, burst=3)
    )
    await add(queue, 3, keys=("a", "b"))
    assert len(await claim(lines)) == 6
    await advance(queue, 9)
    assert await queue.maintenance.forget_levels() == 0
    await add(queue, 3, keys=("a",))
    assert not await claim(lines), "less than one is left by then"
    await advance(queue, 25)
    await queue.leases.renew("lane")
    assert await queue.maintenance.forget_levels() == 2
    assert len(await claim(lines)) == 3, "without a level, all of it is there"


async def test_a_limit_set_or_removed_under_load_counts_from_the_next_scan(
    queue: Queue, lines: ClaimLines
) -> None:
    await add(queue, 30)
    assert len(await claim(lines, 10)) == 10
    await queue.operator.set_limit(Limit(name="few", kind="running", amount=5))
    assert not await claim(lines), "ten run already"
    assert await queue.operator.remove_limit("few")
    assert not await queue.operator.remove_limit("few")
    assert len(await claim(lines)) == 20


async def test_a_claim_without_limits_is_one_statement(
    queue: Queue, lines: ClaimLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.operator.set_limit(Limit(name="others", kind="running", types=["other"], amount=5))
    await add(queue, 3)
    await lines.scan()
    asked = []

    async def fetch(pool: asyncpg.Pool[Any], query: str, *arguments: Any, **options: Any) -> Any:
        asked.append(query)
        return await whole(pool, query, *arguments, **options)

    whole = asyncpg.Pool.fetch
    monkeypatch.setattr(asyncpg.Pool, "fetch", fetch)
    monkeypatch.setattr(asyncpg.Pool, "acquire", None)
    assert len(await lines.claim(3, lambda _: 3)) == 3
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"kind": "rate", "amount": 1}, "period_s"),
        ({"kind": "running", "amount": 1, "period_s": 1}, "only a rate"),
        ({"kind": "running", "amount": 1, "exceptions": {"a": 1}}, "by_key"),
        ({"kind": "running", "amount": -1}, "greater than or equal to 0"),
        ({"kind": "running", "amount": float("nan")}, "amount"),
        ({"kind": "rate", "amount": 1, "period_s": float("inf")}, "finite"),
        ({"kind": "running", "amount": 1, "by_key": True, "exceptions": {"x" * 126: 1}}, "125"),
        ({"kind": "cost", "amount": 1}, "a cost needs period_s"),
        ({"kind": "cost", "amount": 1, "period_s": 1, "burst": 1}, "only a rate has a burst"),
        ({"kind": "some", "amount": 1}, "running"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_by_name(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Limit(name="x", **fields)


@pytest.mark.parametrize(
    "values",
    [
        "('x', 'running', '{}', false, -1, NULL)",
        "('x', 'rate', '{}', false, 1, NULL)",
        "('x', 'rate', '{}', false, 1, 'NaN')",
        "('x', 'rate', '{}', false, 1, 'Infinity')",
        "('', 'running', '{}', false, 1, NULL)",
        "('x', 'some', '{}', false, 1, NULL)",
        "('x', 'cost', '{}', false, 1, NULL)",
    ],
)
async def test_sql_cannot_write_one_either(queue: Queue, values: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await running(
            queue, f"INSERT INTO limits (name, kind, types, by_key, amount, period_s) VALUES {values}"
        )
