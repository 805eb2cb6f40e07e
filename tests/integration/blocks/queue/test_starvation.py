"""Which lines of waiting tasks are starved: those that get no turn although others do, and no others."""

from __future__ import annotations

from datetime import timedelta

import pytest

from organism_flows.blocks.queue import Closing, Limit, NewTask, Queue
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio

AFTER_S = 60.0


@pytest.fixture(autouse=True)
async def still(queue: Queue) -> None:
    await set_clock(queue, START)
    await queue.leases.register("lane")


async def ran(queue: Queue, number: int, *, key: str | None, type: str = "t", seconds: float = 60) -> None:
    """Let tasks of a line have ended, spread over the last ``seconds``."""
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, key, status, finished_at, elapsed_ms) SELECT $1, $2, 'completed', "
        "queue_now() - make_interval(secs => $4 * i / $3::int), 5 FROM generate_series(0, $3 - 1) i",
        type,
        key,
        number,
        seconds,
    )


async def starved(queue: Queue, after_s: float = AFTER_S) -> list[tuple[str, str]]:
    return [(line.type, line.key) for line in await queue.health.line_waits(after_s) if line.starved]


async def test_a_key_that_gets_no_turn_while_others_have_many(queue: Queue) -> None:
    await queue.submit([NewTask(type="t", key=key) for key in ("a", "a", "b")])
    await advance(queue, 100)
    assert await starved(queue) == [], "nothing runs at all"
    await ran(queue, 5, key="c")
    assert await starved(queue) == [], "too few to tell"
    await ran(queue, 40, key="a")
    assert await starved(queue) == [("t", "b")]
    assert await starved(queue, 200) == [], "it has not waited for so long"
    waits = {(line.key, line.waits_s) for line in await queue.health.line_waits(AFTER_S)}
    assert waits == {("a", 100.0), ("b", 100.0)}
    await ran(queue, 1, key="b")
    assert await starved(queue) == []


async def test_a_type_of_which_nothing_runs_while_others_of_its_priority_do(queue: Queue) -> None:
    await queue.submit([NewTask(type="t"), NewTask(type="low", priority=-1)])
    await advance(queue, 100)
    await ran(queue, 40, key=None, type="other")
    assert await starved(queue) == [("t", "")], "a lower priority waits by right"
    await queue.operator.pause("type", "t")
    assert await starved(queue) == []
    await queue.operator.resume("type", "t")
    await queue.operator.set_limit(Limit(name="none", kind="running", types=["t"], amount=0))
    assert await starved(queue) == [], "an operator has closed it"


async def test_a_limit_of_its_own_is_no_starvation_and_one_that_others_use_up_is(queue: Queue) -> None:
    await queue.submit([NewTask(type="t", key="b")])
    await advance(queue, 100)
    await ran(queue, 40, key="a")
    limit = Limit(name="each", kind="rate", by_key=True, amount=1, period_s=3600, exceptions={"a": 9999})
    await queue.operator.set_limit(limit)
    assert await starved(queue) == [("t", "b")], "it has room"
    await pool_of(queue).execute(
        "INSERT INTO limit_levels (name, key, level, at) VALUES ('each', 'b', 0, queue_now())"
    )
    assert await starved(queue) == []
    await queue.operator.remove_limit("each")
    shared = Limit(name="all", kind="rate", amount=1, period_s=3600)
    await queue.operator.set_limit(shared)
    await pool_of(queue).execute(
        "INSERT INTO limit_levels (name, key, level, at) VALUES ('all', '', 0, queue_now())"
    )
    assert await starved(queue) == [("t", "b")]
    closing = Closing(kind="type", name="t", key="b", until=START + timedelta(hours=1))
    await queue.operator.close(closing)
    assert await starved(queue) == []


async def test_heavy_keys_and_runs_of_a_fair_lane_starve_nobody(queue: Queue) -> None:
    await queue.operator.set_weight("heavy", 30)
    keys = ["heavy", *(f"k{n:02}" for n in range(20))]
    await queue.submit([NewTask(type="t", key=key) for key in keys for _ in range(40)])
    lines = queue.claims.lines("lane")
    for _ in range(40):
        await advance(queue, 5)
        await queue.leases.renew("lane")
        await lines.scan()
        batch = await lines.claim(16, lambda _: 16)
        await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
        assert await starved(queue) == []
    assert {line.key for line in await queue.health.line_waits(AFTER_S)}
