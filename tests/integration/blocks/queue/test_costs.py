"""Limits on cost: what tasks are expected to spend is charged by claims, what they spent by settlements."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError

from organism_flows.blocks.queue import Batch, ClaimLines, Limit, NewTask, Outcomes, Queue, TypePolicy
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio
TOKENS = Limit(name="tokens", kind="cost", amount=1000, period_s=60)


@pytest.fixture
async def lines(queue: Queue) -> ClaimLines:
    await set_clock(queue, START)
    await queue.leases.register("lane")
    return queue.claims.lines("lane")


async def add(queue: Queue, *costs: float | None, kind: str = "t", key: str | None = None) -> list[str]:
    return [str(i) for i in await queue.submit([NewTask(type=kind, key=key, cost=cost) for cost in costs])]


async def claim(queue: Queue, lines: ClaimLines, limit: int = 100) -> Batch:
    await queue.leases.renew("lane")
    await lines.scan()
    return await lines.claim(limit, lambda _: limit)


async def done(queue: Queue, batch: Batch, spent: float | None = None, cause: Any = "completed") -> None:
    result = "1" if cause == "completed" else None
    outcomes = outcomes_of(batch, cause, result=result, error="x" if result is None else None, spent=spent)
    await queue.claims.settle("lane", batch, outcomes)


async def spent(queue: Queue) -> dict[str, float]:
    return (await queue.operator.limits())[0].spent


async def test_what_comes_late_into_a_line_is_found_at_once(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(TOKENS)
    [first] = await add(queue, 1)
    assert (await claim(queue, lines)).ids == [first]
    task = NewTask(type="t", cost=1, run_after=START - timedelta(seconds=1))
    [late] = await queue.submit([task])
    assert (await claim(queue, lines)).ids == [str(late)]


async def test_no_more_is_charged_in_a_period_than_a_limit_allows(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(TOKENS)
    ids = await add(queue, 300, 300, 300, 200, 100)
    batch = await claim(queue, lines)
    assert batch.ids == ids[:3], "the first that does not fit waits, and what is behind it in line"
    assert lines.limits.reached
    assert not await claim(queue, lines)
    assert 60 <= lines.limits.next_s <= 62
    assert await spent(queue) == {"": 900}
    why = await queue.reader.why(ids[3])
    assert why.reason == "limited"
    assert "limit tokens has 100 of 1000 left, and its cost is 200" in why.sentence
    await done(queue, batch)
    await advance(queue, 59)
    assert not await claim(queue, lines)
    await advance(queue, 3)
    assert (await claim(queue, lines)).ids == ids[3:]


async def test_in_no_window_more_is_spent_and_nearly_all_of_it_is(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(Limit(name="tokens", kind="cost", amount=100, period_s=10))
    await add(queue, *[7, 23, 1, 40] * 30)
    began: list[tuple[float, float]] = []
    costs = {r["id"]: r["cost"] for r in await pool_of(queue).fetch("SELECT id::text, cost FROM tasks")}
    seconds = 0.0
    while seconds < 50:
        batch = await claim(queue, lines)
        began += [(seconds, costs[task]) for task in batch.ids]
        await done(queue, batch)
        await advance(queue, 0.7)
        seconds += 0.7
    for first, _ in began:
        assert sum(cost for at, cost in began if first <= at < first + 10 - 1e-6) <= 100
    assert sum(cost for _, cost in began) >= 0.6 * 500


async def test_what_was_not_spent_is_given_back_and_what_was_beyond_is_taken(
    queue: Queue, lines: ClaimLines
) -> None:
    await queue.operator.set_limit(TOKENS)
    await add(queue, 400, 400)
    a = await claim(queue, lines, 1)
    b = await claim(queue, lines, 1)
    await done(queue, a, spent=100)
    assert await spent(queue) == {"": 500}
    await done(queue, b, spent=650, cause="failed")
    assert await spent(queue) == {"": 750}
    await done(queue, b, spent=650)
    assert await spent(queue) == {"": 750}, "a stale outcome is not charged twice"


async def test_what_nobody_reports_stays_charged(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(TOKENS)
    await add(queue, 400)
    batch = await claim(queue, lines)
    await queue.claims.release("lane", batch, cause="interrupted", error="x")
    assert await spent(queue) == {"": 400}


async def test_the_estimate_is_the_tasks_own_then_that_of_its_type_then_1(
    queue: Queue, lines: ClaimLines
) -> None:
    await queue.operator.set_limit(TOKENS)
    await queue.operator.set_policy(TypePolicy(type="p", cost=50))
    await add(queue, None, 7, kind="p")
    await add(queue, None)
    await claim(queue, lines)
    while await claim(queue, lines):
        pass
    assert await spent(queue) == {"": 58}


async def test_each_key_has_its_own_budget_and_a_spent_one_blocks_nobody(
    queue: Queue, lines: ClaimLines
) -> None:
    limit = Limit(name="each", kind="cost", by_key=True, amount=10, period_s=60, exceptions={"big": 30})
    await queue.operator.set_limit(limit)
    for key in ("a", "b", "big"):
        await add(queue, *[5] * 10, key=key)
    while await claim(queue, lines):
        pass
    assert await spent(queue) == {"big": 30, "a": 10, "b": 10}


async def test_a_task_that_no_period_has_room_for_fails_at_once_with_the_figures(
    queue: Queue, lines: ClaimLines
) -> None:
    await queue.operator.set_limit(TOKENS)
    ids = await add(queue, 1001, 5)
    assert (await claim(queue, lines)).ids == ids[1:]
    task = await queue.get(ids[0])
    assert task.status == "failed"
    assert task.error == "its cost of 1001 exceeds limit tokens, which allows 1000 a period"
    await queue.operator.set_limit(Limit(name="tokens", kind="cost", amount=0, period_s=60))
    [waits] = await add(queue, 5)
    assert not await claim(queue, lines)
    why = await queue.reader.why(waits)
    assert "limit tokens allows none" in why.sentence, "a closed limit fails nobody"


async def test_lanes_that_claim_together_spend_no_more(queue: Queue) -> None:
    await queue.operator.set_limit(TOKENS)
    await add(queue, *[30] * 100)
    lanes = []
    for number in range(4):
        await queue.leases.register(f"lane{number}")
        lanes.append(queue.claims.lines(f"lane{number}"))
    for _ in range(4):
        await asyncio.gather(*(claim(queue, lines, 10) for lines in lanes))
    assert await spent(queue) == {"": 990}


async def test_a_row_that_another_session_locks_exceeds_nothing(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(Limit(name="tokens", kind="cost", amount=10, period_s=60))
    ids = await add(queue, 4, 4, 9)
    connection = await asyncpg.connect(queue.dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM tasks WHERE id = $1::text::uuid FOR UPDATE", ids[0])
            batch = await claim(queue, lines)
            assert not len(batch), "it has taken the second and third, and was undone"
            assert await spent(queue) == {}
        assert (await claim(queue, lines)).ids == ids[:2]
    finally:
        await connection.close()


async def test_what_is_past_is_forgotten(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(TOKENS)
    await add(queue, 5)
    await claim(queue, lines)
    assert await queue.maintenance.forget_spending() == 0
    await advance(queue, 62)
    assert await queue.maintenance.forget_spending() == 1


async def test_a_snooze_reports_what_it_spent_as_any_other(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(TOKENS)
    await add(queue, 400)
    batch = await claim(queue, lines)
    outcomes = Outcomes()
    outcomes.add(0, "snoozed", result='{"after_s": 1}', error="429", spent=0)
    await queue.claims.settle("lane", batch, outcomes)
    assert await spent(queue) == {"": 0}


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf"), 1e16])
async def test_a_cost_that_makes_no_sense_is_refused_everywhere(queue: Queue, cost: float) -> None:
    with pytest.raises(ValidationError, match="cost"):
        NewTask(type="t", cost=cost)
    with pytest.raises(asyncpg.CheckViolationError, match="tasks_cost_is_plausible"):
        await pool_of(queue).execute("INSERT INTO tasks (type, cost) VALUES ('t', $1)", cost)
