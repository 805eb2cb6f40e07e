"""What lanes count: nothing is lost when a lane leaves, nothing is there twice, and nothing falls."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from alembic import command
from hypothesis import given
from hypothesis import strategies as st

from organism_flows.blocks.queue import NewTask, Queue, migrate
from organism_flows.blocks.queue.counters import Histogram, buckets
from tests.support.clock import START, advance, set_clock
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio
BOUNDS = (0.5, 1, 10)


@given(st.lists(st.lists(st.sampled_from([0, 0.4, 0.5, 0.6, 1, 3, 10, 11, 1e9]))))
def test_histograms_of_several_lanes_are_one(lanes: list[list[float]]) -> None:
    total: defaultdict[str, float] = defaultdict(float)
    for values in lanes:
        histogram = Histogram("h", BOUNDS)
        for value in values:
            histogram.observe(value)
        for name, number in histogram.figures.items():
            total[name] += number
    together = [value for values in lanes for value in values]
    reached, summed = buckets({**total, "h_other.le.1": 5, "h.sum.more": 5}, "h", BOUNDS)
    assert reached == [
        (bound, sum(value <= bound for value in together)) for bound in (*BOUNDS, float("inf"))
    ]
    assert summed == pytest.approx(sum(together))


def test_buckets_of_another_version_are_counted_too() -> None:
    reached, _ = buckets({"h.le.0.7": 2, "h.le.10": 1, "h.le.+Inf": 1}, "h", BOUNDS)
    assert reached == [(0.5, 0), (0.7, 2), (1, 2), (10, 3), (float("inf"), 4)]


async def test_a_lane_that_leaves_takes_nothing_with_it(queue: Queue) -> None:
    assert await queue.reader.lane_figures() == {}
    for lane, claims in (("a", 1), ("b", 10)):
        await queue.leases.register(lane)
        await queue.leases.renew(lane, figures={"claims": claims, f"only {lane}": 0.25})
    both = {"claims": 11, "only a": 0.25, "only b": 0.25}
    assert await queue.reader.lane_figures() == both
    await queue.leases.deregister("a")
    assert await queue.reader.lane_figures() == both
    await queue.leases.deregister("a")
    assert await queue.reader.lane_figures() == both, "counted twice when told twice"
    await queue.leases.renew("b")
    assert await queue.reader.lane_figures() == both, "whoever says nothing takes nothing back"
    await queue.leases.report("b", settled=3, figures={"claims": 20, "only b": 1})
    await queue.leases.deregister("b")
    assert await queue.reader.lane_figures() == {"claims": 21, "only a": 0.25, "only b": 1}
    await queue.leases.register("c")
    await queue.leases.renew("c", figures={"claims": 2})
    assert (await queue.reader.lane_figures())["claims"] == 23


@pytest.mark.parametrize("holding", [False, True])
async def test_a_lost_lane_is_counted_once(queue: Queue, holding: bool) -> None:
    await set_clock(queue, START)
    await queue.leases.register("lane")
    await queue.submit([NewTask(type="t"), NewTask(type="t")])
    if holding:
        await queue.claims.claim("lane", 10)
    await queue.leases.renew("lane", figures={"claims": 2})
    await advance(queue, 20)
    for _ in range(2):
        await asyncio.gather(*(queue.leases.reap() for _ in range(4)))
        await queue.leases.reap()  # the row of a lane that held tasks goes with a later one
        assert await queue.reader.lanes() == []
        lost = {"leases_lost": 2} if holding else {}
        assert await queue.reader.lane_figures() == {"claims": 2, "lanes_lost": 1, **lost}
    assert await queue.leases.renew("lane", figures={"claims": 100}) is None
    await queue.leases.report("lane", settled=0, figures={"claims": 100})
    assert (await queue.reader.lane_figures())["claims"] == 2, "it is gone, and so is what it counts now"


async def test_a_lane_that_leaves_while_it_holds_tasks_is_not_lost(queue: Queue) -> None:
    await queue.leases.register("lane")
    await queue.submit([NewTask(type="t")])
    await queue.claims.claim("lane", 10)
    await queue.leases.report("lane", settled=0, figures={"claims": 1})
    await queue.leases.deregister("lane")
    assert await queue.reader.lane_figures() == {"claims": 1}
    for _ in range(2):
        await queue.leases.reap()
    assert await queue.reader.lanes() == []
    assert await queue.reader.lane_figures() == {"claims": 1, "leases_lost": 1}


async def test_tasks_that_end_with_their_lane_are_counted(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.blocks.queue.stores.leases.LEASES_A_TASK_MAY_LOSE", 1)
    await set_clock(queue, START)
    await queue.leases.register("lane")
    [_, cancelled] = await queue.submit([NewTask(type="t"), NewTask(type="t")])
    await queue.claims.claim("lane", 10)
    await queue.operator.cancel([cancelled])
    await advance(queue, 20)
    await queue.leases.reap()
    assert await queue.reader.lane_figures() == {
        "lanes_lost": 1, "leases_lost": 2, "reaped.cancelled": 1, "reaped.failed": 1,
    }  # fmt: skip


async def test_no_figure_ever_falls(queue: Queue) -> None:
    """Lanes come, count, leave and are reaped, all at once, while somebody looks."""
    ended = asyncio.Event()
    looks: list[dict[str, float]] = []

    async def look() -> None:
        while not ended.is_set():
            looks.append(await queue.reader.lane_figures())

    async def live(number: int) -> None:
        for turn in range(10):
            lane = f"{number}-{turn}"
            await queue.leases.register(lane)
            await queue.leases.renew(lane, figures={"claims": 1, f"k{number}": 1})
            await queue.leases.renew(lane, figures={"claims": 3, f"k{number}": 2})
            if turn % 2:
                await queue.leases.deregister(lane)
            else:
                past = "UPDATE lanes SET lease_until = queue_now() - interval '1 s' WHERE id = $1"
                await pool_of(queue).execute(past, lane)
                await queue.leases.reap()

    looking = asyncio.create_task(look())
    await asyncio.gather(*(live(number) for number in range(5)))
    ended.set()
    await looking
    await queue.leases.reap()
    looks.append(await queue.reader.lane_figures())
    assert looks[-1] == {"claims": 150, "lanes_lost": 25, **{f"k{number}": 20 for number in range(5)}}
    for before, after in pairwise(looks):
        assert all(after.get(name, -1) >= value for name, value in before.items()), (before, after)


async def test_what_is_no_number_is_not_counted(queue: Queue) -> None:
    await queue.leases.register("lane")
    await pool_of(queue).execute("""UPDATE lanes SET figures = '{"claims": "many", "n": 1, "o": null}'""")
    assert await queue.reader.lane_figures() == {"n": 1}
    await queue.leases.deregister("lane")
    assert await queue.reader.lane_figures() == {"n": 1}
    await queue.leases.register("lane")
    with pytest.raises(asyncpg.CheckViolationError):
        await pool_of(queue).execute("UPDATE lanes SET figures = '[]'")


async def test_lanes_of_version_3_go_on_under_version_4(
    databases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = await databases.create(migrated=False)
    with monkeypatch.context() as patch:
        upgrade = command.upgrade
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0003"))
        patch.setitem(migrate.__globals__, "_set_privileges", lambda _: [])  # of tables to come
        await migrate(dsn)
    older = await asyncpg.connect(dsn)
    try:
        await older.execute(
            "INSERT INTO lanes (id, host, pid, lease_until, settled) "
            "VALUES ('v3', 'h', 1, queue_now() + interval '1 hour', 5)"
        )
        await migrate(dsn)
        async with Queue(dsn) as queue:
            [lane] = await queue.reader.lanes()
            assert (lane.id, lane.settled) == ("v3", 5)
            await older.execute("UPDATE lanes SET settled = 6 WHERE id = 'v3'")
            await queue.leases.register("v4")
            await queue.leases.renew("v4", figures={"claims": 4})
            assert await queue.reader.lane_figures() == {"claims": 4}
            # Its reap knows nothing of figures.
            await older.execute("DELETE FROM lanes")
            assert await queue.reader.lane_figures() == {"claims": 4}
    finally:
        await older.close()
