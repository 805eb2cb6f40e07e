"""What a task waits for, in every place it can be."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random
from uuid import UUID

import pytest

from organism_flows.blocks.errors import AmbiguousTask, TaskNotFound
from organism_flows.blocks.queue import Limit, NewTask, Queue, Why
from organism_flows.blocks.queue.explain import LineForecast
from organism_flows.blocks.queue.wire import Cause
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def still(queue: Queue) -> None:
    await set_clock(queue, START)


async def submit(queue: Queue, **fields: object) -> str:
    [task_id] = await queue.submit([NewTask(type="echo", **fields)])
    return str(task_id)


async def end(queue: Queue, cause: Cause, error: str = "broken") -> None:
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, cause, result="1", error=error))


def check(why: Why, reason: str, *said: str) -> None:
    assert why.reason == reason
    assert why.sentence.startswith(f"task {why.id} ")
    for text in said:
        assert text in why.sentence


async def test_without_a_lane(queue: Queue) -> None:
    task_id = await submit(queue)
    check(await queue.reader.why(task_id), "no_lane", "waits for a lane: none is alive")
    await queue.leases.register("lane")
    await queue.leases.register("stopping", run="run")
    await queue.operator.request_stop("run")
    why = await queue.reader.why(task_id)
    check(why, "in_line", "is due and in line: it is the first", "1 lane claims")
    assert (why.lanes_alive, why.ahead, why.next_step) == (1, 0, None)
    await advance(queue, 16)
    check(await queue.reader.why(task_id), "no_lane")


async def test_in_line(queue: Queue) -> None:
    await queue.leases.register("lane")
    await submit(queue)
    await submit(queue, priority=1)
    await queue.submit([NewTask(type="other")])
    task_id = await submit(queue)
    why = await queue.reader.why(task_id)
    check(why, "in_line", "1 come before it of its type, priority, domain and key")
    assert why.ahead == 1


async def test_paused(queue: Queue) -> None:
    task_id = await submit(queue, domain="d")
    await queue.leases.register("lane")
    await queue.operator.pause("type", "d")
    await queue.operator.pause("domain", "echo")
    check(await queue.reader.why(task_id), "in_line")
    await queue.operator.pause("domain", "d", reason="moving house")
    await queue.operator.pause("type", "echo")
    why = await queue.reader.why(task_id)
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
    await queue.leases.register("lane")
    why = await queue.reader.why(task_id)
    check(why, "scheduled", "not before 2030-01-01 01:00:00 UTC")
    assert why.until == START + timedelta(hours=1)
    await advance(queue, 3600)
    check(await queue.reader.why(task_id), "no_lane")
    await end(queue, "failed", "no\nroute")
    why = await queue.reader.why(task_id)
    check(why, "backing_off", "attempt 1 of 5 failed (no route), the next one is at 2030-01-01 01:00:0")
    assert why.until == (await queue.get(task_id)).run_after
    assert [attempt.cause for attempt in why.history] == ["failed"]


async def test_created(queue: Queue) -> None:
    task_id = await submit(queue, run_immediately=False)
    check(await queue.reader.why(task_id), "created", "not to run yet")
    assert [str(i) for i in await queue.operator.start([(await queue.get(task_id)).id])] == [task_id]
    check(await queue.reader.why(task_id), "no_lane")


async def test_without_an_organ(queue: Queue) -> None:
    task_id = await submit(queue)
    await queue.leases.register("lane")
    why = await queue.reader.why(task_id, served={"other"})
    check(why, "no_organ", "no organ for: echo")
    check(await queue.reader.why(task_id, served={"echo"}), "in_line")
    check(await queue.reader.why(task_id, served=None), "in_line")


async def test_running_until_its_lane_falls_silent(queue: Queue) -> None:
    task_id = await submit(queue)
    await claim(queue)
    why = await queue.reader.why(task_id)
    check(
        why,
        "claimed",
        "was claimed 0 s ago",
        "leased by lane lane until 2030-01-01 00:00:15 UTC",
        "attempt 1 of 5",
    )
    assert (why.lane, why.until) == ("lane", START + timedelta(seconds=15))
    await queue.operator.cancel([why.id])
    why = await queue.reader.why(task_id)
    check(why, "cancelling", "is to be cancelled")
    assert why.cancel_requested
    await advance(queue, 16)
    check(await queue.reader.why(task_id), "lease_past", "whose lease ended at 2030-01-01 00:00:15 UTC")
    await pool_of(queue).execute("DELETE FROM lanes")
    check(await queue.reader.why(task_id), "lease_past", "whose lease ended; the next reap takes it back")


async def test_handed_to_a_replica_or_begun(queue: Queue) -> None:
    others = [await submit(queue) for _ in range(2)]
    batch = await claim(queue)
    await advance(queue, 3)
    await queue.claims.begun(batch)
    task_id = await submit(queue)
    await claim(queue)
    check(await queue.reader.why(task_id), "claimed", "was claimed 0 s ago", "attempt 1 of 5")
    await advance(queue, 10)
    why = await queue.reader.why(task_id)
    check(
        why,
        "handed_over",
        "was handed to a replica 10 s ago and waits there for a handler",
        "behind 2 others of its type that run, the oldest since 2030-01-01 00:00:03 UTC, attempt 1 of 5",
    )
    assert (why.begun_at, why.of_type_running, why.next_step) == (None, 2, None)
    why = await queue.reader.why(others[0])
    check(why, "running", "runs since 2030-01-01 00:00:03 UTC, attempt 1 of 5, leased by lane lane until")
    assert (why.begun_at, why.of_type_running) == (START + timedelta(seconds=3), 2)
    await pool_of(queue).execute("UPDATE lanes SET lease_until = queue_now() + interval '1 hour'")
    await advance(queue, 60)
    why = await queue.reader.why(task_id)
    assert why.reason == "handed_over"
    assert "concurrency" in (why.next_step or "")
    waiting = await queue.reader.why(await submit(queue))
    check(waiting, "in_line", "; 3 others of its type run now, the oldest since 2030-01-01 00:00:03 UTC.")
    assert waiting.of_type_since == START + timedelta(seconds=3)


async def test_a_beginning_with_an_earlier_claim_is_none(queue: Queue) -> None:
    task_id = await submit(queue)
    batch = await claim(queue)
    await advance(queue, 3)
    await queue.claims.begun(batch)
    await queue.claims.release("lane", batch, cause="interrupted", error="the lane stopped")
    check(await queue.reader.why(task_id), "in_line")
    await advance(queue, 5)
    await claim(queue)
    await advance(queue, 5)
    why = await queue.reader.why(task_id)
    check(why, "handed_over", "waits there for a handler, attempt 1 of 5")
    assert why.begun_at is None
    assert (await queue.get(task_id)).begun_at == START + timedelta(seconds=3)


async def test_how_often_it_was_interrupted_and_why(queue: Queue) -> None:
    task_id = await submit(queue)
    for number, said in enumerate(
        (
            "; it was interrupted once, at 2030-01-01 00:00:10 UTC (reason 0).",
            "; it was interrupted twice, the last time at 2030-01-01 00:00:20 UTC (reason 1).",
            "; it was interrupted 3 times, the last time at 2030-01-01 00:00:30 UTC (reason 2).",
        )
    ):
        batch = await claim(queue)
        await advance(queue, 10)
        await queue.claims.release("lane", batch, cause="interrupted", error=f"reason {number}")
        await queue.leases.renew("lane")
        why = await queue.reader.why(task_id)
        check(why, "in_line", said)
        assert why.interrupted == number + 1
        assert (why.next_step is not None) is (number == 2)
    assert "organism tasks policy echo --max-interruptions N" in (why.next_step or "")
    await end(queue, "completed")
    assert "interrupted" not in (await queue.reader.why(task_id)).sentence


async def test_a_suspect_says_why_it_has_a_process_of_its_own(queue: Queue) -> None:
    task_id = await submit(queue)
    for _ in range(2):
        batch = await claim(queue)
        await queue.claims.release("lane", batch, cause="replica_lost", error="it died", suspicion=1)
    why = await queue.reader.why(task_id)
    check(why, "in_line", "; it is to run in a process of its own because 2 replicas have died with it.")
    assert why.suspicion == 2
    batch = await claim(queue)
    await advance(queue, 3)
    await queue.claims.begun(batch)
    check(
        await queue.reader.why(task_id),
        "running",
        "; it runs in a process of its own because 2 replicas have died",
    )


async def test_the_lane_that_holds_it_is_leaving(queue: Queue) -> None:
    await queue.leases.register("lane", run="run")
    task_id, waiting = await submit(queue), await submit(queue, priority=-1)
    await claim(queue, limit=1)
    assert await queue.operator.request_leave("run") == 1
    await advance(queue, 5)
    await queue.leases.renew("lane", leaving=True)
    await advance(queue, 5)
    why = await queue.reader.why(task_id)
    check(why, "handed_over", "; lane lane is leaving since 2030-01-01 00:00:05 UTC: it claims nothing more")
    assert why.lane_leaving_at == START + timedelta(seconds=5)
    check(await queue.reader.why(waiting), "no_lane", "none is alive that claims tasks (1 lane is leaving)")


async def test_ended(queue: Queue) -> None:
    task_id = await submit(queue)
    await end(queue, "completed")
    check(await queue.reader.why(task_id), "completed", "completed at 2030-01-01 00:00:00 UTC in attempt 1")
    task_id = await submit(queue, max_attempts=2)
    for cause in ("timed_out", "failed"):
        await end(queue, cause)
        await advance(queue, 10)
    why = await queue.reader.why(task_id)
    check(why, "dead_letter", "because broken", "1 timed out, 1 failed")
    assert why.next_step is not None
    assert len(why.history) == 2
    task_id = await submit(queue)
    await queue.operator.cancel([(await queue.get(task_id)).id])
    check(await queue.reader.why(task_id), "cancelled", "was cancelled at 2030-01-01 00:00:20")


async def test_by_a_prefix(queue: Queue) -> None:
    one, _ = await queue.submit([NewTask(type="echo", id=f"abcd{n}{'0' * 27}") for n in range(2)])
    assert (await queue.reader.why("abcd0")).id == one
    with pytest.raises(AmbiguousTask) as ambiguous:
        await queue.reader.why("abcd")
    assert ambiguous.value.candidates[0] == str(one)
    with pytest.raises(TaskNotFound):
        await queue.reader.why("ef")


async def test_a_task_begins_within_the_range_that_was_said(queue: Queue) -> None:
    random = Random(11)
    await queue.leases.register("lane")
    ids = await queue.submit([NewTask(type="echo") for _ in range(250)])
    waiting = set(ids)
    said: list[tuple[UUID, LineForecast]] = []
    begun: dict[UUID, datetime] = {}
    while waiting:
        await advance(queue, random.expovariate(0.5))
        await queue.leases.renew("lane")
        batch = await queue.claims.claim("lane", random.randint(1, 8))
        begun |= dict.fromkeys(map(UUID, batch.ids), await queue.reader.now())
        waiting -= begun.keys()
        await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1", elapsed_ms=0.0))
        if waiting and len(begun) % 2 == 0:
            why = await queue.reader.why(str(random.choice(sorted(waiting))))
            assert ("likely to begin" in why.sentence) is (why.begins is not None)
            said += [(why.id, why.begins)] if why.begins else []
    held = sum(one.earliest <= begun[task] <= (one.latest or begun[task]) for task, one in said)
    assert len(said) >= 20
    assert 0.65 <= held / len(said) <= 0.97, f"{held} of {len(said)}"
    widths = [((one.latest or one.earliest) - one.earliest) / (begun[task] - START) for task, one in said]
    assert sorted(widths)[len(widths) // 2] < 1, "so wide that it says nothing"


async def test_what_else_keeps_a_task_waiting_leaves_its_beginning_open(queue: Queue) -> None:
    await queue.leases.register("lane")
    ids = await queue.submit([NewTask(type="echo") for _ in range(30)])
    for _ in range(20):
        await advance(queue, 1)
        await queue.leases.renew("lane")
        await end_one(queue)
    task_id = str(ids[-1])
    begins = (await queue.reader.why(task_id)).begins
    assert begins is not None
    assert begins.per_minute == pytest.approx(60, rel=0.05)
    await queue.operator.pause("type", "echo")
    assert (await queue.reader.why(task_id)).begins is None
    await queue.operator.resume("type", "echo")
    await advance(queue, 16)
    check(await queue.reader.why(task_id), "no_lane")
    assert (await queue.reader.why(task_id)).begins is None


async def end_one(queue: Queue, elapsed_ms: float = 0.0) -> None:
    batch = await queue.claims.claim("lane", 1)
    await queue.claims.settle(
        "lane", batch, outcomes_of(batch, "completed", result="1", elapsed_ms=elapsed_ms)
    )


async def test_a_limit_on_what_runs_says_when_it_will_have_room(queue: Queue) -> None:
    await queue.leases.register("lane")
    await queue.operator.set_limit(Limit(name="few", kind="running", types=["echo"], amount=2))
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, status, finished_at, elapsed_ms) "
        "SELECT 'echo', 'completed', queue_now(), 1000 * i FROM generate_series(20, 119) i"
    )
    await submit(queue)
    await submit(queue)
    lines = queue.claims.lines("lane")
    await lines.scan()
    batch = await lines.claim(2, lambda _: 2)
    assert len(batch) == 2
    task_id = await submit(queue)
    await advance(queue, 10)
    await queue.leases.renew("lane")
    why = await queue.reader.why(task_id)
    check(why, "limited", "allows 2 at once, and as many run: one is likely to end between 2030-01-01 00:00:")
    assert why.room is not None
    # Both took 20 to 120 s if they end as the others did: the first of two is over by 90 % after 88 s.
    assert 13 <= (why.room.earliest - START).total_seconds() <= 28
    assert why.room.latest is not None
    assert 80 <= (why.room.latest - START).total_seconds() <= 95
    await advance(queue, 200)
    await queue.leases.renew("lane")
    why = await queue.reader.why(task_id)
    check(why, "limited", "and as many run.")
    assert why.room is None, "no task took as long as these have by now"
