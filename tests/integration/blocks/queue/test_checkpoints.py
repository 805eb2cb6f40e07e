"""What running tasks report: written under the claim, and given to the next attempt."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from organism_flows.blocks.queue import Batch, NewTask, Queue, RedriveFilter
from organism_flows.blocks.snooze import Snooze
from organism_flows.blocks.task_report import Checkpoint, Progress, TaskReport
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def still(queue: Queue) -> None:
    await set_clock(queue, START)


async def run(queue: Queue, **task: Any) -> Batch:
    """Submit a task, claim it and note that its handler has begun, as a lane does before any report."""
    await queue.submit([NewTask(type="t", **task)])
    return await again(queue)


async def again(queue: Queue) -> Batch:
    batch = await claim(queue)
    assert len(batch) == 1
    await queue.claims.begun(batch)
    return batch


async def save(queue: Queue, batch: Batch, step: int, state: str) -> dict[int, bool]:
    return (await queue.reports.record(batch, [TaskReport(0, step, state)])).further


async def counters(queue: Queue) -> dict[str, Any]:
    [row] = await pool_of(queue).fetch("SELECT lease_lost, interrupted, suspicion FROM tasks")
    return dict(row)


async def test_the_next_attempt_gets_the_newest_checkpoint(queue: Queue) -> None:
    batch = await run(queue)
    assert batch.checkpoints == [None]
    await save(queue, batch, 1, '{"unit": 1}')
    await save(queue, batch, 2, '{"unit": 2}')
    await queue.claims.settle("lane", batch, outcomes_of(batch, "failed", error="boom"))
    await advance(queue, 600)
    assert (await again(queue)).checkpoints == [Checkpoint(2, '{"unit": 2}')]


async def test_a_stale_claim_saves_nothing(queue: Queue) -> None:
    stale = await run(queue)
    await save(queue, stale, 1, "1")
    await queue.claims.release("lane", stale, cause="interrupted", error="")
    assert await save(queue, stale, 2, "2") == {}, "handed back"
    newest = await again(queue)
    assert await save(queue, stale, 3, "3") == {}, "claimed again"
    assert newest.checkpoints == [Checkpoint(1, "1")]
    assert await save(queue, newest, 2, "2") == {newest.claims[0]: True}


async def test_a_report_without_a_state_keeps_the_last_one(queue: Queue) -> None:
    batch = await run(queue)
    await save(queue, batch, 1, "1")
    await queue.reports.record(batch, [TaskReport(0, 1, None, Progress(0.5, "half"))])
    await queue.claims.release("lane", batch, cause="interrupted", error="")
    assert (await again(queue)).checkpoints == [Checkpoint(1, "1")]
    [row] = await pool_of(queue).fetch("SELECT fraction, note FROM task_checkpoints")
    assert tuple(row) == (0.5, "half")


async def test_what_postgres_refuses_is_the_problem_of_its_own_task(queue: Queue) -> None:
    await queue.submit([NewTask(type="t")] * 3)
    batch = await claim(queue)
    await queue.claims.begun(batch)
    states = ["1", r'"\u0000"', "3"]
    reports = [TaskReport(position, 1, state) for position, state in enumerate(states)]
    recorded = await queue.reports.record(batch, reports)
    assert set(recorded.further) == {batch.claims[0], batch.claims[2]}
    assert "u0000" in recorded.refused[batch.claims[1]]


async def test_an_attempt_that_got_further_is_not_charged_for_the_death_of_others(queue: Queue) -> None:
    batch = await run(queue)
    for _ in range(3):
        await queue.claims.release("lane", batch, cause="interrupted", error="")
        batch = await again(queue)
        await queue.claims.release("lane", batch, cause="replica_lost", error="", suspicion=1)
        batch = await again(queue)
    assert await counters(queue) == {"lease_lost": 0, "interrupted": 3, "suspicion": 3}
    await save(queue, batch, 1, "1")
    assert await counters(queue) == {"lease_lost": 0, "interrupted": 0, "suspicion": 1}


async def test_lost_leases_end_only_a_task_that_gets_no_further(queue: Queue) -> None:
    await queue.submit([NewTask(type="t")])
    for death in range(1, 25):
        batch = await claim(queue, f"lane-{death}")
        if not len(batch):
            break
        await queue.claims.begun(batch)
        # It gets further until the twelfth unit, which kills its lane.
        await save(queue, batch, min(death, 12), str(min(death, 12)))
        await advance(queue, 60)
        await queue.leases.reap()
    task = await queue.get(str(await pool_of(queue).fetchval("SELECT id FROM tasks")))
    assert task.status == "failed"
    assert death == 12 + 10, "ten deaths without getting further"


@pytest.mark.parametrize("versions", [["new", "new"], ["new", "old"], ["new", None]])
async def test_a_completed_task_says_what_ran_it(queue: Queue, versions: list[str | None]) -> None:
    ids = await queue.submit([NewTask(type="t")] * 2)
    await queue.leases.register("lane")
    batch = await queue.claims.claim("lane", 2)
    completed = outcomes_of(batch, "completed", result="1")
    completed.versions = versions
    await queue.claims.settle("lane", batch, completed)
    assert {(await queue.get(str(one))).handler_version for one in ids} == set(versions)


async def test_the_history_says_what_ran_each_attempt_and_how_far_it_got(queue: Queue) -> None:
    batch = await run(queue)
    await save(queue, batch, 2, "2")
    await queue.claims.release("lane", batch, cause="interrupted", error="")
    batch = await claim(queue)
    await queue.claims.begun(batch, {batch.claims[0]: "new"})
    await queue.reports.record(batch, [TaskReport(0, 5, "5", Progress(0.5, "half"))])
    await advance(queue, 60)
    await queue.leases.reap()
    batch = await claim(queue, "another")
    failed = outcomes_of(batch, "failed", error="boom")
    failed.versions[0] = "newer"
    await queue.claims.settle("lane", batch, failed)
    task_id = batch.ids[0]
    await advance(queue, 600)
    batch = await claim(queue, "a third")
    put_off = outcomes_of(batch, "snoozed", result=Snooze(after_s=0.0).to_json(), error="not now")
    await queue.claims.settle("lane", batch, put_off)
    task = await queue.get(task_id)
    assert [
        (one.cause, one.handler_version, one.resumed_step, one.reached_step, one.fraction)
        for one in task.history
    ] == [
        ("interrupted", None, None, 2, None),
        ("lease_lost", "new", 2, 5, 0.5),
        ("failed", "newer", 5, 5, None),
        ("snoozed", None, 5, 5, None),
    ]
    assert task.handler_version is None, "it is of the newest attempt, or not known"
    assert task.progress is not None
    assert task.progress.resumed_step == 2


async def test_checkpoints_go_with_their_task(queue: Queue) -> None:
    batch = await run(queue)
    await save(queue, batch, 1, "1")
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
    await advance(queue, 600)
    await queue.maintenance.prune("completed", older_than_s=60)
    assert await pool_of(queue).fetchval("SELECT count(*) FROM task_checkpoints") == 0


@pytest.mark.parametrize("from_start", [False, True])
async def test_a_redriven_task_continues_unless_it_is_to_begin_from_the_start(
    queue: Queue, from_start: bool
) -> None:
    batch = await run(queue)
    await save(queue, batch, 3, "3")
    await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error="wrong"))
    done = await queue.operator.redrive(RedriveFilter(), actor="test", from_start=from_start)
    assert done.redriven == 1
    assert (await again(queue)).checkpoints == [None if from_start else Checkpoint(3, "3")]


async def test_a_task_that_is_retried_by_hand_continues(queue: Queue) -> None:
    batch = await run(queue)
    await save(queue, batch, 3, "3")
    await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error="wrong"))
    await queue.operator.retry([UUID(batch.ids[0])])
    assert (await again(queue)).checkpoints == [Checkpoint(3, "3")]


async def test_progress_is_kept_with_the_task(queue: Queue) -> None:
    batch = await run(queue)
    [task_id] = batch.ids
    assert (await queue.get(task_id)).progress is None
    await queue.reports.record(batch, [TaskReport(0, 3, "3", Progress(0.25, "a quarter"))])
    progress = (await queue.get(task_id)).progress
    assert progress is not None
    assert (progress.fraction, progress.note, progress.step) == (0.25, "a quarter", 3)
    state = (await queue.reader.states([UUID(task_id)]))[UUID(task_id)]
    assert (state.fraction, state.note) == (0.25, "a quarter")
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
    assert (await queue.get(task_id)).progress == progress
