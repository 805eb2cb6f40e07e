"""Steering: cancel, pause and resume, policies by type."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from organism_flows.blocks.queue import Batch, Cancelled, NewTask, Outcomes, Queue, ReapResult, TypePolicy
from organism_flows.blocks.queue.db.listener import Listener
from organism_flows.blocks.queue.wire import Cause
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


# Cancelling


async def test_a_cancel_tells_what_became_of_each(queue: Queue) -> None:
    running, done = await queue.submit([NewTask(type="t"), NewTask(type="done")])
    batch = await claim(queue)
    finished = batch.take([batch.types.index("done")])
    await queue.claims.settle("lane", finished, outcomes_of(finished, "completed", result="1"))
    now = await queue.reader.now()
    waiting, later = await queue.submit(
        [NewTask(type="t"), NewTask(type="t", run_after=now + timedelta(days=1))]
    )
    unknown = uuid4()
    assert await queue.operator.cancel([done, running, unknown, waiting, later]) == Cancelled(
        cancelled=sorted([waiting, later]), requested=[running], unchanged=[done, unknown]
    )
    for task_id in (waiting, later):
        task = await queue.get(str(task_id))
        assert (task.status, task.attempts) == ("cancelled", 0)
        assert task.finished_at is not None
    task = await queue.get(str(running))
    assert (task.status, task.cancel_requested) == ("running", True)
    assert await queue.claims.cancel_requests("lane") == {task.claim: str(running)}
    assert (await queue.get(str(done))).status == "completed"
    assert await queue.operator.cancel([]) == Cancelled([], [], [])


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        ("completed", "completed"),
        ("failed", "cancelled"),
        ("timed_out", "cancelled"),
        ("rejected", "cancelled"),
    ],
)
async def test_a_task_to_be_cancelled_is_not_tried_again(queue: Queue, cause: Cause, status: str) -> None:
    [task_id] = await queue.submit([NewTask(type="t")])
    batch = await claim(queue)
    await queue.operator.cancel([task_id])
    settled = await queue.claims.settle("lane", batch, outcomes_of(batch, cause, result="1", error="x"))
    assert settled.statuses == {str(task_id): status}
    task = await queue.get(str(task_id))
    assert (task.cancel_requested, await queue.claims.cancel_requests("lane")) == (False, {})
    assert task.finished_at is not None


async def test_a_lost_lanes_task_that_was_to_be_cancelled_is(queue: Queue) -> None:
    await set_clock(queue, START)
    cancelled, other = await queue.submit([NewTask(type="t"), NewTask(type="t")])
    batch = await claim(queue)
    await queue.operator.cancel([cancelled])
    await advance(queue, 16)
    held = dict(zip(batch.ids, batch.claims, strict=True))
    assert await queue.leases.reap() == ReapResult(lanes=1, retried=2, failed=0, runs=held)
    assert (await queue.get(str(cancelled))).status == "cancelled"
    assert (await queue.get(str(other))).status == "retry"


async def test_cancelling_wakes_the_lanes_that_run_the_task_and_nobody_else(queue: Queue) -> None:
    running, waiting = await queue.submit([NewTask(type="t"), NewTask(type="waiting")])
    await queue.operator.pause("type", "waiting")
    await claim(queue)
    heard: list[object] = []
    connection = await asyncpg.connect(queue.dsn)
    try:
        await connection.add_listener("organism_tasks", lambda *said: heard.append(said[-1]))
        await queue.operator.cancel([waiting])
        await connection.execute("SELECT 1")
        assert heard == []
        await queue.operator.cancel([running])
        await connection.execute("SELECT 1")
        assert heard == ["cancel"]
    finally:
        await connection.close()


# Pausing


async def test_a_pause_holds_a_type_or_a_domain_back_until_it_is_resumed(queue: Queue) -> None:
    await queue.submit([NewTask(type="t"), NewTask(type="u", domain="d"), NewTask(type="u")])
    await queue.operator.pause("type", "t", reason="broken model")
    await queue.operator.pause("domain", "d")
    assert [(p.kind, p.name, p.reason) for p in await queue.operator.pauses()] == [
        ("domain", "d", None),
        ("type", "t", "broken model"),
    ]
    batch = await claim(queue)
    assert (batch.types, batch.domains) == (["u"], [None])
    assert not (await queue.reader.outlook()).ready
    assert await queue.operator.resume("type", "t")
    assert (await claim(queue)).types == ["t"]
    assert await queue.operator.resume("domain", "d")
    assert (await claim(queue)).domains == ["d"]
    assert await queue.operator.pauses() == []


async def test_pausing_twice_keeps_the_reason_and_resuming_twice_says_so(queue: Queue) -> None:
    await queue.operator.pause("type", "t", reason="first")
    [first] = await queue.operator.pauses()
    await queue.operator.pause("type", "t")
    assert await queue.operator.pauses() == [first]
    await queue.operator.pause("type", "t", reason="second")
    assert (await queue.operator.pauses())[0].reason == "second"
    assert [await queue.operator.resume("type", "t") for _ in range(2)] == [True, False]
    assert not await queue.operator.resume("domain", "t")


async def test_resuming_wakes_the_lanes(queue: Queue) -> None:
    await queue.operator.pause("type", "t")
    async with Listener(queue.direct_dsn) as listener:
        wake = listener.event
        await asyncio.wait_for(wake.wait(), 10)
        wake.clear()
        await queue.operator.resume("type", "t")
        await asyncio.wait_for(wake.wait(), 10)


# Policies


async def test_a_types_policy_reaches_the_batch_unless_the_task_has_its_own(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", timeout_s=7, max_attempts=3))
    await queue.submit([NewTask(type="t"), NewTask(type="t", timeout_s=2), NewTask(type="u")])
    batch = await claim(queue)
    assert sorted(zip(batch.types, batch.timeouts, strict=True), key=str) == [
        ("t", 2.0),
        ("t", 7.0),
        ("u", None),
    ]


async def test_attempts_allowed_are_the_tasks_own_else_its_types_else_five(queue: Queue) -> None:
    await queue.operator.set_policy(TypePolicy(type="t", max_attempts=2))
    ids = await queue.submit([NewTask(type="t", max_attempts=4), NewTask(type="t"), NewTask(type="u")])
    assert [(await queue.get(str(i))).max_attempts for i in ids] == [4, 2, 5]
    for task_id, allowed in zip(ids, (4, 2, 5), strict=True):
        for attempt in range(1, allowed + 1):
            batch = await claim_one(queue, task_id)
            settled = await queue.claims.settle("lane", batch, outcomes_of(batch, "failed", error="x"))
            assert settled.statuses[str(task_id)] == ("failed" if attempt == allowed else "retry")


async def claim_one(queue: Queue, task_id: UUID) -> Batch:
    """Claim this task and no other, now."""
    await pool_of(queue).execute(
        "UPDATE tasks SET run_after = CASE WHEN id = $1 THEN now() ELSE now() + interval '1 day' END "
        "WHERE status IN ('queued', 'retry')",
        task_id,
    )
    return await claim(queue)


async def test_a_policy_changed_while_a_task_runs_decides_over_it(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="t")])
    batch = await claim(queue)
    await queue.operator.set_policy(TypePolicy(type="t", max_attempts=1))
    settled = await queue.claims.settle("lane", batch, outcomes_of(batch, "failed", error="x"))
    assert settled.statuses == {str(task_id): "failed"}
    assert await queue.operator.policies() == [TypePolicy(type="t", max_attempts=1)]
    await queue.operator.set_policy(TypePolicy(type="t", timeout_s=1))
    assert await queue.operator.policies() == [TypePolicy(type="t", timeout_s=1)], "None: no longer said"


async def test_a_types_backoff_is_used_for_its_tasks_alone(queue: Queue) -> None:
    await set_clock(queue, START)
    await queue.operator.set_policy(TypePolicy(type="t", backoff_base_s=100, backoff_cap_s=150))
    ids = await queue.submit([NewTask(type="t"), NewTask(type="u")])
    for longest in ((100, 1), (150, 2)):
        batch = await claim(queue)
        await queue.claims.settle("lane", batch, outcomes_of(batch, "failed", error="x"))
        now = await queue.reader.now()
        for task_id, limit in zip(ids, longest, strict=True):
            delay = ((await queue.get(str(task_id))).run_after - now).total_seconds()
            assert limit / 2 <= delay <= limit
        await advance(queue, 150)


async def test_what_an_organ_says_of_retries_holds_where_neither_task_nor_type_does(queue: Queue) -> None:
    await set_clock(queue, START)
    await queue.operator.set_policy(TypePolicy(type="policed", max_attempts=3, backoff_base_s=50))
    tasks = [NewTask(type="plain"), NewTask(type="policed"), NewTask(type="plain", max_attempts=4)]
    ids = [str(i) for i in await queue.submit(tasks)]
    batch = await claim(queue)
    reported = Outcomes(policies={"o": (1, 10.0, 20.0)})
    for position in range(3):
        reported.add(position, "failed", error="x", organ_id="o")
    settled = await queue.claims.settle("lane", batch, reported)
    assert [settled.statuses[task_id] for task_id in ids] == ["failed", "retry", "retry"]
    now = await queue.reader.now()
    delays = [((await queue.get(task_id)).run_after - now).total_seconds() for task_id in ids[1:]]
    assert 10 <= delays[0] <= 20, "the type's base, and the organ's cap"
    assert 5 <= delays[1] <= 10, "the organ's base"
