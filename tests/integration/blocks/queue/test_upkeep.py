"""Redriving, pruning, forgetting lanes and the lock: what is put back or deleted, and what is left alone."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import ValidationError

from organism_flows.blocks.queue import NewTask, Queue, RedriveFilter, TaskFilter
from organism_flows.blocks.queue.db.listener import Listener
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.models.lanes import LaneRequest
from organism_flows.blocks.queue.wire import Cause
from tests.conftest import Databases
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.queue.sessions import blocked_on_a_row, open_transaction
from tests.support.sql import database_of, pool_of

pytestmark = pytest.mark.anyio

DEAD = RedriveFilter()
ROWS = "SELECT * FROM tasks WHERE NOT id = ANY ($1::uuid[]) ORDER BY id"


async def dead_letters(queue: Queue, tasks: Sequence[NewTask], error: str = "boom") -> list[UUID]:
    """Submit tasks and let each fail for good."""
    ids = await queue.submit(tasks)
    batch = await claim(queue, limit=len(tasks))
    assert len(batch) == len(tasks)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error=error))
    return ids


async def statuses(queue: Queue, ids: Sequence[UUID]) -> list[str]:
    return [(await queue.get(str(task_id))).status for task_id in ids]


# Redriving


async def test_a_redriven_task_begins_anew_and_keeps_what_it_failed_with(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="t", max_attempts=1)])
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "timed_out", error="too slow"))
    done = await queue.operator.redrive(DEAD, actor="me")
    assert (done.redriven, done.kept_out) == (1, 0)
    task = await queue.get(str(task_id))
    assert (task.status, task.attempts, task.timed_out, task.error) == ("queued", 0, 0, None)
    assert task.finished_at is None
    assert task.run_after <= await queue.reader.now()
    assert [(a.cause, a.error) for a in task.history] == [("timed_out", "too slow"), ("redriven", "too slow")]
    again = await claim(queue)
    assert (again.ids, again.attempts) == ([str(task_id)], [1])
    assert again.claims[0] > task.history[-1].claim


async def test_a_redrive_is_audited_with_who_what_and_how_many(queue: Queue) -> None:
    await dead_letters(queue, [NewTask(type="t") for _ in range(5)])
    wanted = RedriveFilter(type="t", error="bo%")
    done = await queue.operator.redrive(wanted, actor="me@here", page=2)
    row = await pool_of(queue).fetchrow(
        "SELECT actor, action, tasks, details->>'type' AS type, details->>'error' AS error, at "
        "FROM task_audit WHERE id = $1",
        done.audit,
    )
    assert row is not None
    assert tuple(row)[:5] == ("me@here", "redrive", 5, "t", "bo%")
    nothing = await queue.operator.redrive(wanted, actor="me@here")
    assert nothing.redriven == 0, "they are not dead letters any more"
    assert await pool_of(queue).fetchval("SELECT tasks FROM task_audit WHERE id = $1", nothing.audit) == 0


async def test_only_what_fits_everything_asked_for_is_redriven(queue: Queue) -> None:
    await set_clock(queue, START)
    [old] = await dead_letters(queue, [NewTask(type="t", domain="d")])
    await advance(queue, 10)
    [right] = await dead_letters(queue, [NewTask(type="t", domain="d")])
    [other_type] = await dead_letters(queue, [NewTask(type="u", domain="d")])
    [other_domain] = await dead_letters(queue, [NewTask(type="t")])
    [other_error] = await dead_letters(queue, [NewTask(type="t", domain="d")], "another: boom")
    await advance(queue, 10)
    [new] = await dead_letters(queue, [NewTask(type="t", domain="d")])
    [cancelled, waiting] = await queue.submit([NewTask(type="t", domain="d") for _ in range(2)])
    await queue.operator.cancel([cancelled])
    wanted = RedriveFilter(
        type="t",
        domain="d",
        error="boo_",
        since=START + timedelta(seconds=5),
        until=START + timedelta(seconds=15),
        cancelled=True,
    )
    others = await pool_of(queue).fetch(ROWS, [right])
    found = await queue.operator.redrivable(wanted)
    assert (found.count, [line.id for line in found.sample]) == (1, [right])
    assert (await queue.operator.redrive(wanted, actor="me")).redriven == 1
    assert await statuses(queue, [right]) == ["queued"]
    assert await pool_of(queue).fetch(ROWS, [right]) == others, (
        "the others are as they were, to the last column"
    )
    rest = RedriveFilter(cancelled=True)
    assert (await queue.operator.redrive(rest, actor="me")).redriven == 6
    everything = [old, other_type, other_domain, other_error, new, cancelled, waiting]
    assert set(await statuses(queue, everything)) == {"queued"}


async def test_a_limit_takes_those_that_finished_first(queue: Queue) -> None:
    await set_clock(queue, START)
    ids = []
    for _ in range(5):
        ids += await dead_letters(queue, [NewTask(type="t")])
        await advance(queue, 1)
    assert (await queue.operator.redrive(DEAD, actor="me", limit=3, page=2)).redriven == 3
    assert await statuses(queue, ids) == ["queued"] * 3 + ["failed"] * 2


async def test_a_report_of_the_earlier_claim_changes_nothing_after_a_redrive(queue: Queue) -> None:
    await queue.submit([NewTask(type="t", max_attempts=1) for _ in range(3)])
    late = await claim(queue)
    await queue.claims.settle("lane", late, outcomes_of(late, "failed", error="x"))
    await queue.operator.redrive(DEAD, actor="me")
    reports = outcomes_of(late, "completed", result='"late"')
    assert (await queue.claims.settle("lane", late, reports)).stale == late.ids
    newer = await claim(queue)
    assert set(newer.ids) == set(late.ids)
    assert (await queue.claims.settle("lane", late, reports)).stale == late.ids
    assert await queue.claims.release("lane", late, cause="interrupted", error="x") == {}
    assert not (await queue.claims.settle("lane", newer, outcomes_of(newer, "completed", result="1"))).stale
    assert {(await queue.get(task_id)).result for task_id in late.ids} == {1}


async def test_concurrent_redrives_put_each_back_once(queue: Queue, database: str) -> None:
    await dead_letters(queue, [NewTask(type="t") for _ in range(400)])
    async with Queue(database) as second:
        redrives = [q.operator.redrive(DEAD, actor="me", page=50) for q in (queue, second, queue, second)]
        done = await asyncio.gather(*redrives)
    # What one of them had locked the others left to it.
    assert sum(d.redriven for d in done) == 400
    history = "SELECT count(*), count(DISTINCT task_id) FROM task_attempts WHERE cause = 'redriven'"
    assert tuple(await pool_of(queue).fetchrow(history) or ()) == (400, 400)


async def test_a_task_that_somebody_holds_is_passed_by(queue: Queue) -> None:
    first, second = await dead_letters(queue, [NewTask(type="t"), NewTask(type="t")])
    async with open_transaction(queue) as holding:
        await holding.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", first)
        assert (await asyncio.wait_for(queue.operator.redrive(DEAD, actor="me"), 10)).redriven == 1
    assert await statuses(queue, [first, second]) == ["failed", "queued"]


async def redrive_page(session: Session, *, until: datetime, limit: int, audit: UUID) -> Any:
    """The first page of dead letters, as a redrive of all of them runs it."""
    return await session.fetchrow(
        "redrive",
        status="failed",
        **dict.fromkeys(("type", "domain", "error", "since", "after", "after_id")),
        until=until,
        page=10,
        limit=limit,
        from_start=False,
        audit=audit,
        actor="me",
        details="{}",
    )


async def test_a_redrive_under_way_is_left_to_its_tasks(queue: Queue) -> None:
    [task_id] = await dead_letters(queue, [NewTask(type="t")])
    now = await queue.reader.now()
    async with open_transaction(queue) as redriving:
        first = await redrive_page(Session(redriving), until=now, limit=10, audit=task_id)
        second = await asyncio.wait_for(queue.operator.redrive(DEAD, actor="me"), 10)
    assert first is not None
    assert (first["redriven"], second.redriven) == (1, 0)
    assert [a.cause for a in (await queue.get(str(task_id))).history] == ["rejected", "redriven"]


async def test_a_task_that_fails_again_meanwhile_is_left(queue: Queue) -> None:
    """Else a redrive of what fails at once would never end."""
    await set_clock(queue, START)
    ids = await dead_letters(queue, [NewTask(type="t") for _ in range(3)])
    await advance(queue, 1)
    wanted = RedriveFilter(until=START + timedelta(days=1))
    row = await redrive_page(database_of(queue), until=START, limit=1, audit=ids[0])
    assert row is not None
    assert row["redriven"] == 1
    await advance(queue, 1)
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error="again"))
    row = await redrive_page(database_of(queue), until=START, limit=10, audit=ids[0])
    assert row is not None
    assert row["redriven"] == 2, "the one that failed after the redrive began is not among them"
    assert (await queue.operator.redrive(wanted, actor="me")).redriven == 1


async def test_of_tasks_with_one_key_one_is_redriven(queue: Queue) -> None:
    first, second = [(await dead_letters(queue, [NewTask(type="t", dedup_key="k")]))[0] for _ in range(2)]
    done = await queue.operator.redrive(DEAD, actor="me")
    assert (done.redriven, done.kept_out) == (1, 1)
    assert await statuses(queue, [first, second]) == ["queued", "failed"]
    done = await queue.operator.redrive(DEAD, actor="me")
    assert (done.redriven, done.kept_out) == (0, 1), "while the first is unfinished"


async def test_a_key_that_is_submitted_in_the_same_moment_keeps_its_dead_letter_out(queue: Queue) -> None:
    [dead] = await dead_letters(queue, [NewTask(type="t", dedup_key="k")])
    [free] = await dead_letters(queue, [NewTask(type="t")])
    async with open_transaction(queue) as submitting:
        await submitting.execute("INSERT INTO tasks (type, dedup_key) VALUES ('t', 'k')")
        redriving = asyncio.create_task(queue.operator.redrive(DEAD, actor="me"))
        await blocked_on_a_row(queue)
    done = await redriving
    assert (done.redriven, done.kept_out) == (1, 1)
    assert await statuses(queue, [dead, free]) == ["failed", "queued"]
    assert await pool_of(queue).fetchval("SELECT tasks FROM task_audit WHERE id = $1", done.audit) == 1


async def test_a_redrive_wakes_a_lane(queue: Queue) -> None:
    await dead_letters(queue, [NewTask(type="t")])
    async with Listener(queue.direct_dsn) as listener:
        wake = listener.event
        await asyncio.wait_for(wake.wait(), 10)
        wake.clear()
        await queue.operator.redrive(DEAD, actor="me")
        await asyncio.wait_for(wake.wait(), 10)


@pytest.mark.parametrize(
    "fields", [{"error": "x\\"}, {"error": ""}, {"error": "x" * 201}, {"type": "\x00"}, {"colour": "red"}]
)
def test_a_filter_that_cannot_be_asked_for_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        RedriveFilter(**fields)


# Pruning


async def finished(queue: Queue, how: Cause, tasks: int) -> list[UUID]:
    ids = await queue.submit([NewTask(type=how) for _ in range(tasks)])
    if how == "cancelled":
        await queue.operator.cancel(ids)
        return ids
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, how, result="1", error="x"))
    return ids


async def test_pruning_deletes_what_is_old_of_one_status_with_its_history(queue: Queue) -> None:
    await set_clock(queue, START)
    old = await finished(queue, "rejected", 5) + await finished(queue, "completed", 5)
    [waiting] = await queue.submit([NewTask(type="t", run_after=START + timedelta(days=99))])
    await advance(queue, 100)
    young = await finished(queue, "rejected", 2)
    assert await queue.maintenance.prune("failed", older_than_s=50, page=2) == 5
    kept = {row["id"] for row in await pool_of(queue).fetch("SELECT id FROM tasks")}
    assert kept == {*old[5:], *young, waiting}
    history = await pool_of(queue).fetch("SELECT task_id FROM task_attempts")
    assert {row["task_id"] for row in history} == set(young)
    assert await queue.maintenance.prune("failed", older_than_s=50) == 0
    assert await queue.maintenance.prune("cancelled", older_than_s=50) == 0


async def test_pruning_passes_by_what_is_locked_and_blocks_nobody(queue: Queue) -> None:
    await set_clock(queue, START)
    first, *_ = await finished(queue, "rejected", 3)
    await queue.submit([NewTask(type="t")])
    await advance(queue, 100)
    async with open_transaction(queue) as holding:
        await holding.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", first)
        assert await asyncio.wait_for(queue.maintenance.prune("failed", older_than_s=50), 10) == 2
    async with open_transaction(queue) as pruning:
        await Session(pruning).fetchrow("prune", status="failed", older_than_s=50.0, begin=None, limit=10)
        batch = await asyncio.wait_for(claim(queue), 10)
        done = outcomes_of(batch, "completed", result="1")
        assert len((await asyncio.wait_for(queue.claims.settle("lane", batch, done), 10)).statuses) == 1


async def test_a_report_about_a_pruned_task_is_stale(queue: Queue) -> None:
    await set_clock(queue, START)
    await queue.submit([NewTask(type="t")])
    batch = await claim(queue)
    done = outcomes_of(batch, "completed", result="1")
    await queue.claims.settle("lane", batch, done)
    await advance(queue, 100)
    assert await queue.maintenance.prune("completed", older_than_s=50) == 1
    assert (await queue.claims.settle("lane", batch, done)).stale == batch.ids


async def test_pruning_stops_when_its_time_is_over(queue: Queue) -> None:
    await set_clock(queue, START)
    await finished(queue, "rejected", 5)
    await advance(queue, 100)
    assert await queue.maintenance.prune("failed", older_than_s=50, within_s=0, page=2) == 2
    assert await queue.maintenance.prune("failed", older_than_s=50, page=2) == 3


# Lanes and the lock


async def test_a_lane_whose_name_stayed_on_a_task_is_forgotten_when_it_is_long_dead(queue: Queue) -> None:
    await set_clock(queue, START)
    await queue.submit([NewTask(type="t")])
    await claim(queue, "dead")
    # Somebody's own SQL, which leaves the holder.
    await pool_of(queue).execute("UPDATE tasks SET status = 'failed', finished_at = queue_now()")
    await advance(queue, 20)
    await queue.leases.register("alive")
    for _ in range(2):
        await queue.leases.reap()
    assert {lane.id for lane in await queue.reader.lanes()} == {"dead", "alive"}
    assert await queue.maintenance.forget_lanes(dead_for_s=100) == 0
    await advance(queue, 100)
    await queue.leases.renew("alive")
    assert await queue.maintenance.forget_lanes(dead_for_s=100) == 1
    assert [lane.id for lane in await queue.reader.lanes()] == ["alive"]


async def test_a_lane_that_may_still_renew_is_never_forgotten(queue: Queue) -> None:
    await set_clock(queue, START)
    await queue.leases.register("late")
    await advance(queue, 10_000)
    assert await queue.maintenance.forget_lanes(dead_for_s=100) == 0
    assert (await queue.leases.renew("late")) == LaneRequest(stop=False, leave=False)


HOLD = """
import asyncio, sys
from organism_flows.blocks.queue import Queue

async def main():
    async with Queue(sys.argv[1]) as queue, queue.maintenance.exclusive(1) as mine:
        print(mine, flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


async def test_a_lock_is_had_by_one_and_ends_with_its_process(queue: Queue, database: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLD,
        database,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[4],
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"True\n"
        async with queue.maintenance.exclusive(1) as mine, queue.maintenance.exclusive(2) as another:
            assert (mine, another) == (False, True)
    finally:
        process.kill()
        await process.wait()
    async with asyncio.timeout(10):
        mine = False
        while not mine:  # Postgres notices in its own time that a socket is closed
            async with queue.maintenance.exclusive(1) as mine:
                pass


async def test_what_finished_in_the_older_system_can_be_redriven(databases: Databases) -> None:
    from organism_flows.blocks.queue import migrate
    from tests.support.queue.older_schema import OLDER_SCHEMA

    dsn = await databases.create(migrated=False)
    connection = await asyncpg.connect(dsn)
    await connection.execute(OLDER_SCHEMA)
    await connection.close()
    await migrate(dsn)
    async with Queue(dsn) as queue:
        assert (await queue.operator.redrive(RedriveFilter(error="boom"), actor="me")).redriven == 1
        [task] = await queue.reader.page(TaskFilter(type="d"))
        assert (await queue.get(str(task.id))).history[0].error == "boom"
