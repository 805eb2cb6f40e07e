"""Tasks that handlers put off, and keys and limits that they close: no lane claims them before their time."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from organism_flows.blocks.queue import (
    Batch,
    ClaimLines,
    Limit,
    NewTask,
    Outcomes,
    Queue,
    TaskFilter,
    TypePolicy,
)
from organism_flows.blocks.snooze import Snooze
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lines(queue: Queue) -> ClaimLines:
    await set_clock(queue, START)
    await queue.leases.register("lane")
    return queue.claims.lines("lane")


async def claim(queue: Queue, lines: ClaimLines, limit: int = 100) -> Batch:
    await queue.leases.renew("lane")
    await lines.scan()
    return await lines.claim(limit, lambda _: limit)


async def claim_all(queue: Queue, lines: ClaimLines) -> Batch:
    """Claim until nothing is left: of lines that share a limit, one may take all its room."""
    claimed = Batch()
    while len(batch := await claim(queue, lines)):
        claimed.extend(batch)
    return claimed


def snoozed(batch: Batch, **asked: Any) -> Outcomes:
    return outcomes_of(batch, "snoozed", result=Snooze(**asked).to_json(), error="Busy: 429")


async def keys_of(queue: Queue, batch: Batch) -> Counter[str | None]:
    return Counter([(await queue.get(task_id)).key for task_id in batch.ids])


async def test_a_task_that_is_put_off_waits_and_is_not_charged(queue: Queue, lines: ClaimLines) -> None:
    [task_id] = await queue.submit([NewTask(type="t", max_attempts=1)])
    for number in range(1, 4):
        batch = await claim(queue, lines)
        assert batch.attempts == [1]
        settled = await queue.claims.settle("lane", batch, snoozed(batch, after_s=30))
        assert (settled.statuses, settled.snoozed) == ({str(task_id): "queued"}, 1)
        task = await queue.get(str(task_id))
        assert (task.attempts, task.snoozed, task.error) == (0, number, None)
        assert task.history[-1].cause == "snoozed"
        why = await queue.reader.why(str(task_id))
        assert (why.reason, why.until) == ("snoozed", task.run_after)
        assert "put off by its handler until" in why.sentence
        assert "Busy: 429" in why.sentence
        await advance(queue, 29)
        assert not await claim(queue, lines)
        await advance(queue, 1)


async def test_a_moment_is_one_by_the_clock_of_the_database(queue: Queue, lines: ClaimLines) -> None:
    await queue.submit([NewTask(type="t")])
    batch = await claim(queue, lines)
    until = (START + timedelta(minutes=5)).isoformat()
    await queue.claims.settle("lane", batch, snoozed(batch, until=until))
    assert (await queue.get(batch.ids[0])).run_after == START + timedelta(minutes=5)
    await advance(queue, 300)
    batch = await claim(queue, lines)
    await queue.claims.settle("lane", batch, snoozed(batch, until=until))
    assert (await queue.get(batch.ids[0])).run_after == START + timedelta(minutes=5), "not in the past"


@pytest.mark.parametrize(("most", "allowed"), [(None, 100), (2, 2)])
async def test_a_task_that_is_put_off_too_often_is_a_dead_letter(
    queue: Queue, lines: ClaimLines, most: int | None, allowed: int
) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", max_snoozes=most))
    [task_id] = await queue.submit([NewTask(type="t")])
    await pool_of(queue).execute("UPDATE tasks SET snoozed = $1", allowed - 1)
    batch = await claim(queue, lines)
    assert (await queue.claims.settle("lane", batch, snoozed(batch, after_s=0))).snoozed == 1
    batch = await claim(queue, lines)
    settled = await queue.claims.settle("lane", batch, snoozed(batch, after_s=0))
    assert (settled.statuses, settled.snoozed) == ({str(task_id): "failed"}, 0)
    assert (await queue.get(str(task_id))).error == f"put off {allowed} times before it ended: Busy: 429"
    assert (await queue.operator.retry([task_id])).retried == [task_id]
    assert (await queue.get(str(task_id))).snoozed == 0


async def test_a_stale_claim_puts_nothing_off_and_closes_nothing(queue: Queue, lines: ClaimLines) -> None:
    await queue.submit([NewTask(type="t", key="a")])
    batch = await claim(queue, lines)
    await queue.claims.release("lane", batch, cause=None, error="")
    again = await claim(queue, lines)
    settled = await queue.claims.settle("lane", batch, snoozed(batch, after_s=60, closes="key"))
    assert settled.stale == batch.ids
    assert await queue.operator.closures() == []
    assert (await queue.claims.settle("lane", again, outcomes_of(again, "completed", result="1"))).statuses


async def test_a_cancelled_task_that_is_put_off_is_cancelled(queue: Queue, lines: ClaimLines) -> None:
    [task_id] = await queue.submit([NewTask(type="t")])
    batch = await claim(queue, lines)
    await queue.operator.cancel([task_id])
    settled = await queue.claims.settle("lane", batch, snoozed(batch, after_s=60))
    assert (settled.statuses, settled.snoozed) == ({str(task_id): "cancelled"}, 0)


async def test_one_outcome_that_postgres_refuses_fails_its_own_task_only(
    queue: Queue, lines: ClaimLines
) -> None:
    await queue.submit([NewTask(type="t") for _ in range(3)])
    batch = await claim(queue, lines)
    outcomes = snoozed(batch, after_s=60)
    outcomes.results[1] = Snooze(after_s=1, closes="\x00").to_json()
    settled = await queue.claims.settle("lane", batch, outcomes)
    assert sorted(settled.statuses.values()) == ["queued", "queued", "retry"]


async def test_a_closed_key_is_closed_for_every_lane_at_its_next_claim(
    queue: Queue, lines: ClaimLines
) -> None:
    await queue.submit(
        [NewTask(type=kind, key=key) for kind in "tu" for key in ("a", "b", None) for _ in "123"]
    )
    await queue.leases.register("other")
    others = queue.claims.lines("other")
    await others.scan()
    batch = await lines.claim(1, lambda _: 1)
    [key] = await keys_of(queue, batch)
    [kind] = batch.types
    await queue.claims.settle("lane", batch, snoozed(batch, after_s=60, closes="key"))
    # Without another scan: what is closed is read by the claim itself.
    claimed = await others.claim(100, lambda _: 100)
    assert len(claimed) == 15
    assert not any(
        (t, k) == (kind, key)
        for t, k in zip(claimed.types, [(await queue.get(i)).key for i in claimed.ids], strict=True)
    )
    await advance(queue, 60)
    assert await keys_of(queue, await claim(queue, lines)) == {key: 3}


async def test_a_lane_knows_when_what_is_closed_opens(queue: Queue, lines: ClaimLines) -> None:
    await queue.submit([NewTask(type="t", key="a") for _ in "12"])
    batch = await claim(queue, lines, 1)
    await queue.claims.settle("lane", batch, snoozed(batch, after_s=45, closes="key"))
    await lines.scan()
    assert [line.due_s for line in lines] == [pytest.approx(45)]
    waiting = next(t for t in await queue.reader.page(TaskFilter()) if str(t.id) not in batch.ids)
    why = await queue.reader.why(str(waiting.id))
    assert (why.reason, why.until) == ("closed", START + timedelta(seconds=45))
    assert "key a of type t is closed until" in why.sentence
    assert "(Busy: 429)" in why.sentence


@pytest.mark.parametrize("kind", ["running", "rate"])
async def test_a_closed_limit_holds_all_its_types_and_only_them(
    queue: Queue, lines: ClaimLines, kind: Any
) -> None:
    period = {"period_s": 1.0, "burst": 50} if kind == "rate" else {}
    await queue.operator.set_limit(Limit(name="api", kind=kind, types=["t", "u"], amount=100, **period))
    await queue.submit([NewTask(type=t, priority=t == "t") for t in "tuv" for _ in range(3)])
    batch = await claim(queue, lines, 1)
    await queue.claims.settle("lane", batch, snoozed(batch, after_s=60, closes="api"))
    assert Counter((await claim_all(queue, lines)).types) == {"v": 3}
    assert lines.limits.reached
    assert lines.limits.next_s == pytest.approx(60)
    [closure] = await queue.operator.closures()
    assert (closure.kind, closure.name, closure.key, closure.reason) == ("limit", "api", "", "Busy: 429")
    [waiting] = await queue.submit([NewTask(type="u")])
    why = await queue.reader.why(str(waiting))
    assert (why.reason, why.until) == ("closed", START + timedelta(seconds=60))
    await advance(queue, 60)
    assert len(await claim_all(queue, lines)) == 7
    assert await queue.maintenance.forget_closures() == 1


async def test_a_limit_by_key_is_closed_for_the_key_of_the_task(queue: Queue, lines: ClaimLines) -> None:
    await queue.operator.set_limit(Limit(name="each", kind="running", by_key=True, amount=10))
    await queue.submit([NewTask(type=kind, key=key) for kind in "tu" for key in "ab" for _ in "12"])
    batch = await claim(queue, lines, 1)
    [key] = await keys_of(queue, batch)
    await queue.claims.settle("lane", batch, snoozed(batch, after_s=60, closes="each"))
    [other] = {"a", "b"} - {key}
    assert await keys_of(queue, await claim_all(queue, lines)) == {other: 4}
    assert await queue.operator.remove_limit("each")
    assert await queue.operator.closures() == []
    assert await keys_of(queue, await claim_all(queue, lines)) == {key: 3}


async def test_what_is_closed_longer_stays_closed(queue: Queue, lines: ClaimLines) -> None:
    await queue.submit([NewTask(type="t", key="a") for _ in "123"])
    batch = await claim(queue, lines)
    outcomes = Outcomes()
    for position, after_s in enumerate((10, 60, 20)):
        text = Snooze(after_s=after_s, closes="key").to_json()
        outcomes.add(position, "snoozed", result=text, error=f"{after_s}")
    await queue.claims.settle("lane", batch, outcomes.take([0, 1]))
    await queue.claims.settle("lane", batch, outcomes.take([2]))
    [closure] = await queue.operator.closures()
    assert closure.until == START + timedelta(seconds=60)
    await pool_of(queue).execute("DELETE FROM closures")
    await advance(queue, 20)
    assert len(await claim(queue, lines)) == 2, "each waits for its own moment, once its key is open"


async def test_a_limit_that_does_not_exist_closes_nothing_and_the_history_says_so(
    queue: Queue, lines: ClaimLines
) -> None:
    await queue.submit([NewTask(type="t")])
    batch = await claim(queue, lines)
    await queue.claims.settle("lane", batch, snoozed(batch, after_s=1, closes="typo"))
    task = await queue.get(batch.ids[0])
    assert task.history[-1].error == "Busy: 429 (it closes nothing: there is no limit typo)"
    assert await queue.operator.closures() == []


async def test_many_closed_keys_hide_no_open_one(queue: Queue, lines: ClaimLines) -> None:
    await queue.submit([NewTask(type="t", key=f"k{n:04}") for n in range(1000)])
    await pool_of(queue).execute(
        "INSERT INTO closures (kind, name, key, until) "
        "SELECT 'type', 't', key, queue_now() + interval '1 hour' FROM tasks WHERE key <> 'k0700'"
    )
    found = Batch()
    for _ in range(100):
        found.extend(await lines.claim(100, lambda _: 100))
        if len(found):
            break
        await lines.scan()
        assert lines.stale, "the lane goes on to the next page at once"
    assert await keys_of(queue, found) == {"k0700": 1}


async def test_opening_wakes_lanes(queue: Queue) -> None:
    heard: list[object] = []
    connection = await asyncpg.connect(queue.dsn)
    try:
        await connection.add_listener("organism_tasks", lambda *_: heard.append(_))
        await connection.execute("INSERT INTO closures (kind, name, until) VALUES ('type', 't', now())")
        assert not heard
        await connection.execute("DELETE FROM closures")
        await connection.execute("SELECT 1")
        assert len(heard) == 1
    finally:
        await connection.close()
