"""What a task waits for, in every place it can be."""

from __future__ import annotations

from datetime import timedelta

import pytest

from blocks.errors import AmbiguousTask, TaskNotFound
from blocks.queue import NewTask, Queue, Why
from tests.blocks.queue.helpers import claim, outcomes_of
from tests.clock import START, advance, set_clock

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def still(queue: Queue) -> None:
    await set_clock(queue, START)


async def submit(queue: Queue, **fields: object) -> str:
    [task_id] = await queue.submit([NewTask(type="echo", **fields)])  # type: ignore[arg-type]
    return str(task_id)


async def end(queue: Queue, cause: str, error: str = "broken") -> None:
    batch = await claim(queue)
    await queue.settle("lane", batch, outcomes_of(batch, cause, result="1", error=error))


def check(why: Why, reason: str, *said: str) -> None:
    assert why.reason == reason
    assert why.sentence.startswith(f"task {why.id} ")
    for text in said:
        assert text in why.sentence


async def test_without_a_lane(queue: Queue) -> None:
    task_id = await submit(queue)
    check(await queue.why(task_id), "no_lane", "waits for a lane: none is alive")
    await queue.register("lane")
    await queue.register("stopping", run="run")
    await queue.request_stop("run")
    why = await queue.why(task_id)
    check(why, "in_line", "is due and in line: it is the first", "1 lane claims")
    assert (why.lanes_alive, why.ahead, why.next_step) == (1, 0, None)
    await advance(queue, 16)
    check(await queue.why(task_id), "no_lane")


async def test_in_line(queue: Queue) -> None:
    await queue.register("lane")
    await submit(queue)
    await submit(queue, priority=1)
    await queue.submit([NewTask(type="other")])
    task_id = await submit(queue)
    why = await queue.why(task_id)
    check(why, "in_line", "1 come before it of its type and priority")
    assert why.ahead == 1


async def test_paused(queue: Queue) -> None:
    task_id = await submit(queue, domain="d")
    await queue.register("lane")
    await queue.pause("type", "d")
    await queue.pause("domain", "echo")
    check(await queue.why(task_id), "in_line")
    await queue.pause("domain", "d", reason="moving house")
    await queue.pause("type", "echo")
    why = await queue.why(task_id)
    check(
        why,
        "paused",
        "domain d is paused since 2030-01-01 00:00:00 UTC (moving house)",
        "; and waits because type echo is paused since",
    )
    assert [pause.kind for pause in why.pauses] == ["domain", "type"]
    assert why.next_step is not None
    assert "organism tasks resume --domain d" in why.next_step


async def test_scheduled_and_then_backing_off(queue: Queue) -> None:
    task_id = await submit(queue, run_after=START + timedelta(hours=1))
    await queue.register("lane")
    why = await queue.why(task_id)
    check(why, "scheduled", "not before 2030-01-01 01:00:00 UTC")
    assert why.until == START + timedelta(hours=1)
    await advance(queue, 3600)
    check(await queue.why(task_id), "no_lane")
    await end(queue, "failed", "no\nroute")
    why = await queue.why(task_id)
    check(why, "backing_off", "attempt 1 of 5 failed (no route), the next one is at 2030-01-01 01:00:0")
    assert why.until == (await queue.get(task_id)).run_after
    assert [attempt.cause for attempt in why.history] == ["failed"]


async def test_created(queue: Queue) -> None:
    task_id = await submit(queue, run_immediately=False)
    check(await queue.why(task_id), "created", "not to run yet")
    assert [str(i) for i in await queue.start([(await queue.get(task_id)).id])] == [task_id]
    check(await queue.why(task_id), "no_lane")


async def test_without_an_organ(queue: Queue) -> None:
    task_id = await submit(queue)
    await queue.register("lane")
    why = await queue.why(task_id, served={"other"})
    check(why, "no_organ", "no organ for: echo")
    check(await queue.why(task_id, served={"echo"}), "in_line")
    check(await queue.why(task_id, served=None), "in_line")


async def test_running_until_its_lane_falls_silent(queue: Queue) -> None:
    task_id = await submit(queue)
    await claim(queue)
    why = await queue.why(task_id)
    check(why, "running", "leased by lane lane until 2030-01-01 00:00:15 UTC", "attempt 1 of 5")
    assert (why.lane, why.until) == ("lane", START + timedelta(seconds=15))
    await queue.cancel([why.id])
    why = await queue.why(task_id)
    check(why, "cancelling", "is to be cancelled")
    assert why.cancel_requested
    await advance(queue, 16)
    check(await queue.why(task_id), "lease_past", "whose lease ended at 2030-01-01 00:00:15 UTC")
    await queue.pool.execute("DELETE FROM lanes")
    check(await queue.why(task_id), "lease_past", "whose lease ended; the next reap takes it back")


async def test_ended(queue: Queue) -> None:
    task_id = await submit(queue)
    await end(queue, "completed")
    check(await queue.why(task_id), "completed", "completed at 2030-01-01 00:00:00 UTC in attempt 1")
    task_id = await submit(queue, max_attempts=2)
    for cause in ("timed_out", "failed"):
        await end(queue, cause)
        await advance(queue, 10)
    why = await queue.why(task_id)
    check(why, "dead_letter", "because broken", "1 timed_out, 1 failed")
    assert why.next_step is not None
    assert len(why.history) == 2
    task_id = await submit(queue)
    await queue.cancel([(await queue.get(task_id)).id])
    check(await queue.why(task_id), "cancelled", "was cancelled at 2030-01-01 00:00:20")


async def test_by_a_prefix(queue: Queue) -> None:
    one, _ = await queue.submit([NewTask(type="echo", id=f"abcd{n}{'0' * 27}") for n in range(2)])  # type: ignore[arg-type]
    assert (await queue.why("abcd0")).id == one
    with pytest.raises(AmbiguousTask) as ambiguous:
        await queue.why("abcd")
    assert ambiguous.value.candidates[0] == str(one)
    with pytest.raises(TaskNotFound):
        await queue.why("ef")
