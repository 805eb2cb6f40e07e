"""Long tasks under kill -9 of replicas and lanes: each death repeats the units in hand, and no others."""

from __future__ import annotations

from collections import Counter
from functools import partial
from uuid import uuid4

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from tests.chaos.victims import Kind, kill
from tests.support.sql import pool_of
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack, pytest.mark.chaos]
TASKS, UNITS = 8, 20
DEATHS: tuple[Kind, ...] = ("replica", "lane")


async def test_deaths_repeat_no_more_than_the_units_in_hand(stack: Stack, stack_queue: Queue) -> None:
    file = stack.home / f"units-{uuid4().hex}"
    file.touch()
    params = {"units": UNITS, "seconds": 0.1, "file": str(file)}
    ids = await stack_queue.submit([NewTask(type="units", params=params, max_attempts=1)] * TASKS)
    process = stack.start("dispatch", "--until-empty", "--lanes", "2", "--json")
    in_hand = 0

    async def saved(goal: int) -> bool:
        total = await pool_of(stack_queue).fetchval("SELECT coalesce(sum(step), 0) FROM task_checkpoints")
        return bool(total >= goal)

    for number, kind in enumerate(DEATHS, 1):
        goal = TASKS * UNITS * number // (len(DEATHS) + 2)
        await until(partial(saved, goal), patience=240)
        in_hand += await pool_of(stack_queue).fetchval("SELECT count(*) FROM tasks WHERE status = 'running'")
        await until(partial(kill, stack, kind, None, 0.0), patience=120)
    stack.finish(process)
    done = Counter(file.read_text().splitlines())
    assert set(done) == {f"{task} {unit}" for task in ids for unit in range(UNITS)}, "none is lost"
    again = sum(done.values()) - TASKS * UNITS
    assert again <= in_hand
    rows = await pool_of(stack_queue).fetch("SELECT DISTINCT status::text, attempts FROM tasks")
    assert [tuple(row) for row in rows] == [("completed", 1)], "nobody is charged for the deaths of others"
