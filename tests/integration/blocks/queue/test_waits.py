"""Tasks that wait for an event: they hold nothing, and are resumed with it once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from organism_flows.blocks.errors import ConfigurationError, EventRefused, TaskNotFound
from organism_flows.blocks.queue import Batch, NewTask, Queue, RedriveFilter, TaskFilter
from organism_flows.blocks.snooze import Snooze
from organism_flows.blocks.task_report import EndedWait
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio

APPROVED = EndedWait("approval", '{"by": "ada"}', False, False)
TIMED_OUT = EndedWait("approval", None, True, False)


@pytest.fixture(autouse=True)
async def still(queue: Queue) -> None:
    await set_clock(queue, START)


async def begin(queue: Queue, **task: Any) -> tuple[UUID, Batch]:
    [task_id] = await queue.submit([NewTask(type="t", **task)])
    return task_id, await claim(queue)


async def wait(queue: Queue, batch: Batch, event: str = "approval", **asked: Any) -> str:
    outcomes = outcomes_of(
        batch, "snoozed", result=Snooze(event=event, **asked).to_json(), error="waits for the manager"
    )
    [status] = (await queue.claims.settle("lane", batch, outcomes)).statuses.values()
    return status


async def test_a_task_that_waits_holds_nothing_and_is_resumed_with_the_event_once(queue: Queue) -> None:
    task_id, batch = await begin(queue, max_attempts=1)
    assert await wait(queue, batch) == "waiting"
    task = await queue.get(str(task_id))
    assert (task.status, task.attempts, task.locked_by) == ("waiting", 0, None)
    assert task.waits_for is not None
    assert (task.waits_for.event, task.waits_for.since, task.waits_for.until) == ("approval", START, None)
    why = await queue.reader.why(str(task_id))
    assert (why.status, why.reason) == ("waiting", "waiting")
    assert "waits for the event approval since 2030-01-01 00:00:00" in why.sentence
    assert why.next_step == f"send it: `organism tasks signal {task_id} approval`"
    assert await queue.reader.remaining() == 0, "a dispatch that runs until the queue is empty ends"
    await advance(queue, 10**9)
    assert not await claim(queue), "however long it takes"

    assert await queue.producer.send_event(task_id, "approval", {"by": "ada"}) == "resumed"
    assert await queue.producer.send_event(task_id, "approval", {"by": "bob"}) == "duplicate"
    assert (await queue.get(str(task_id))).status == "queued"
    batch = await claim(queue)
    assert (batch.attempts, batch.waits) == ([1], {batch.claims[0]: APPROVED})
    assert not await claim(queue)
    await queue.claims.release("lane", batch, cause="interrupted", error="")
    batch = await claim(queue)
    assert batch.waits == {batch.claims[0]: APPROVED}, "the attempt after an interruption continues with it"
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
    assert await queue.producer.send_event(task_id, "approval") == "duplicate"


async def test_an_event_that_comes_before_the_wait_is_kept(queue: Queue) -> None:
    task_id, batch = await begin(queue)
    assert await queue.producer.send_event(task_id, "approval", {"by": "ada"}) == "kept"
    assert await queue.producer.send_event(task_id, "other", 1) == "kept"
    assert await wait(queue, batch) == "queued"
    batch = await claim(queue)
    assert batch.waits == {batch.claims[0]: APPROVED}
    assert await wait(queue, batch, "third") == "waiting", "an event of another name does not resume it"


async def test_an_event_that_meets_the_settlement_is_not_lost(queue: Queue) -> None:
    """Whichever of the two has the lock of the task, the other one waits for it and then sees it."""
    for first in ("event", "settlement"):
        task_id, batch = await begin(queue)
        other = await asyncpg.connect(queue.dsn)
        try:
            transaction = other.transaction()
            await transaction.start()
            if first == "event":
                await other.execute("INSERT INTO task_events VALUES ($1, 'approval')", task_id)
                meeting: asyncio.Task[Any] = asyncio.create_task(wait(queue, batch))
            else:
                await other.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", task_id)
                await other.execute(
                    "UPDATE tasks SET status = 'queued', waits_for = 'approval', run_after = 'infinity', "
                    "locked_by = NULL WHERE id = $1",
                    task_id,
                )
                meeting = asyncio.create_task(queue.producer.send_event(task_id, "approval"))
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            while not await pool_of(queue).fetchval(waiting):  # a table
                await asyncio.sleep(0.01)
            await transaction.commit()
            await meeting
        finally:
            await other.close()
        assert (await queue.get(str(task_id))).status == "queued", first
        assert await claim(queue), first


@pytest.mark.parametrize("asked", [{"after_s": 60}, {"until": (START + timedelta(seconds=60)).isoformat()}])
async def test_after_its_timeout_a_task_continues_without_the_event(
    queue: Queue, asked: dict[str, Any]
) -> None:
    task_id, batch = await begin(queue)
    assert await wait(queue, batch, **asked) == "waiting"
    why = await queue.reader.why(str(task_id))
    assert (why.until, "continues without it at" in why.sentence) == (START + timedelta(seconds=60), True)
    await advance(queue, 59)
    assert not await claim(queue)
    await advance(queue, 1)
    batch = await claim(queue)
    assert batch.waits == {batch.claims[0]: TIMED_OUT}
    assert await queue.producer.send_event(task_id, "approval", {"by": "ada"}) == "kept"
    await queue.claims.release("lane", batch, cause="interrupted", error="")
    assert (await queue.get(str(task_id))).status == "queued", "the wait is over"
    batch = await claim(queue)
    assert batch.waits == {batch.claims[0]: TIMED_OUT}, "what one attempt has seen, the next one sees"
    assert await wait(queue, batch) == "queued"
    batch = await claim(queue)
    assert batch.waits == {batch.claims[0]: APPROVED}, "it has come by now"


async def test_a_task_that_waits_again_for_the_same_event_is_a_dead_letter(queue: Queue) -> None:
    task_id, batch = await begin(queue)
    await queue.producer.send_event(task_id, "approval")
    await wait(queue, batch)
    assert await wait(queue, await claim(queue)) == "failed"
    error = (await queue.get(str(task_id))).error or ""
    assert error.startswith("waits again for the event approval, which it has had: waits for the manager")


async def test_the_wait_of_a_stale_claim_changes_nothing(queue: Queue) -> None:
    _, stale = await begin(queue)
    await queue.claims.release("lane", stale, cause=None, error="")
    batch = await claim(queue)
    outcomes = outcomes_of(stale, "snoozed", result=Snooze(event="approval").to_json(), error="")
    assert (await queue.claims.settle("lane", stale, outcomes)).stale == stale.ids
    assert not await pool_of(queue).fetchval("SELECT count(*) FROM task_waits")
    assert (await queue.get(batch.ids[0])).status == "running"


async def test_a_waiting_task_is_cancelled_retried_and_redriven(queue: Queue) -> None:
    task_id, batch = await begin(queue)
    await wait(queue, batch)
    assert (await queue.operator.cancel([task_id])).cancelled == [task_id]
    assert (await queue.get(str(task_id))).status == "cancelled"
    with pytest.raises(EventRefused, match=f"task {task_id} is cancelled and takes no more events"):
        await queue.producer.send_event(task_id, "approval")
    assert (await queue.operator.retry([task_id])).retried == [task_id]
    batch = await claim(queue)
    assert batch.waits == {}, "the event has not come, and there was time left: the handler waits again"
    await queue.producer.send_event(task_id, "approval", {"by": "ada"})
    assert await wait(queue, batch) == "queued"
    for from_start, waits in ((False, [APPROVED]), (True, [])):
        batch = await claim(queue)
        await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error="KeyError: 'unit'"))
        await queue.operator.redrive(RedriveFilter(), actor="test", from_start=from_start)
        again = await claim(queue)
        assert list(again.waits.values()) == waits
        await queue.claims.release("lane", again, cause=None, error="")
    assert await queue.producer.send_event(task_id, "approval") == "kept", "it begins from the start"


async def test_a_waiting_task_is_listed_counted_and_exported_as_such(queue: Queue) -> None:
    task_id, batch = await begin(queue)
    await wait(queue, batch)
    await queue.submit([NewTask(type="t")])
    for status, number in (("waiting", 1), ("queued", 1), ("running", 0)):
        filter = TaskFilter(status=[status])
        assert len(await queue.reader.page(filter)) == number, status
        assert (await queue.reader.counts_of(filter))[status] == number  # type: ignore[index]
        assert [row["status"] async for page in queue.reader.export(filter) for row in page] == [
            status
        ] * number
    assert (await queue.reader.counts())["waiting"] == 1
    assert {(depth.status, depth.tasks) for depth in await queue.reader.depths()} == {
        ("waiting", 1),
        ("queued", 1),
    }
    assert (await queue.reader.states([task_id]))[task_id].status == "waiting"
    assert await queue.operator.cancellable(TaskFilter(type="t")) == {"waiting": 1, "queued": 1}


@pytest.mark.parametrize(
    ("name", "payload", "problem"),
    [
        ("", None, "'' is no name of an event"),
        ("a b", None, "'a b' is no name of an event"),
        ("x", {"n": float("nan")}, "the event x cannot be stored: payload.n"),
        ("x", ["a\0b"], r"the event x cannot be stored: payload\[0\]"),
        ("x", "a" * 300_000, "the event x cannot be stored: payload"),
    ],
)
async def test_what_cannot_be_an_event_is_refused(
    queue: Queue, name: str, payload: Any, problem: str
) -> None:
    task_id, _ = await begin(queue)
    with pytest.raises(ConfigurationError, match=problem):
        await queue.producer.send_event(task_id, name, payload)


async def test_an_event_for_a_task_that_is_not_there_is_refused(queue: Queue) -> None:
    with pytest.raises(TaskNotFound):
        await queue.producer.send_event(uuid4(), "approval")


async def test_events_go_with_their_task(queue: Queue) -> None:
    task_id, batch = await begin(queue)
    await wait(queue, batch)
    await queue.producer.send_event(task_id, "approval")
    await pool_of(queue).execute("DELETE FROM tasks")
    assert not await pool_of(queue).fetchval("SELECT count(*) FROM task_events")


async def test_an_event_wakes_the_lanes(queue: Queue) -> None:
    task_id, batch = await begin(queue)
    await wait(queue, batch)
    heard = asyncio.Event()
    other = await asyncpg.connect(queue.dsn)
    try:
        await other.add_listener("organism_tasks", lambda *_: heard.set())
        await other.execute("INSERT INTO task_events (task_id, name) VALUES ($1, 'approval')", task_id)
        await asyncio.wait_for(heard.wait(), 60)
    finally:
        await other.close()
