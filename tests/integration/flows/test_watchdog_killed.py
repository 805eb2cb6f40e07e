"""A watchdog that is killed leaves nothing half done, and the next one begins at once."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.watchdog import watchdog
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import claim
from tests.support.queue.sessions import open_transaction
from tests.support.sql import pool_of

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.usefixtures("own_prefect")]
ROOT = Path(__file__).parents[3]
KEEP: Any = {"keep_completed_days": 1, "keep_audit_days": 1}
RUN = f"import asyncio; from organism_flows.flows.watchdog import watchdog; asyncio.run(watchdog(**{KEEP}))"


async def waits_for_a_lock(queue: Queue, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(90):
        while not await pool_of(queue).fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database() AND application_name = 'organism-watchdog'"
        ):
            assert process.returncode is None
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("table", "taken_back", "left"),
    [
        ("task_attempts", 2, 1),  # in the middle of taking tasks back
        ("task_audit", 0, 0),  # that is done, and tasks are deleted
    ],
)
async def test_the_next_watchdog_does_what_a_killed_one_did_not(
    queue: Queue, table: str, taken_back: int, left: int
) -> None:
    await set_clock(queue, START)
    [old] = await queue.submit([NewTask(type="t")])
    await queue.operator.cancel([old])
    await pool_of(queue).execute("INSERT INTO task_audit (action, actor) VALUES ('redrive', 'somebody')")
    await queue.submit([NewTask(type="t"), NewTask(type="t")])
    await claim(queue, "dead")
    await advance(queue, 2 * 86_400)
    async with open_transaction(queue) as blocking:
        await blocking.execute(f"LOCK TABLE {table} IN SHARE MODE")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            RUN,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": PREFECT_API_URL.value() or ""},
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await waits_for_a_lock(queue, process)
        finally:
            process.kill()
            await process.wait()
        counts = await queue.reader.counts()
        assert (counts["running"], counts["cancelled"]) == (taken_back, left), "all of a step, or nothing"
    done = await watchdog(**KEEP)
    assert (done.exclusive, done.tasks_taken_back, done.cancelled_pruned) == (True, taken_back, left)
    assert done.notes_pruned == 1
    counts = await queue.reader.counts()
    assert (counts["running"], counts["retry"], counts["cancelled"]) == (0, 2, 0)
    assert (await watchdog(**KEEP)).tasks_taken_back == 0
