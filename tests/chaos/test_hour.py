"""A long task under the default schedule: it runs once, whatever the schedule does meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from tests.chaos.long.recorded import default_stack
from tests.support.flows.prefect_command import start_run
from tests.support.history import Expected, install_history, read_history, violations
from tests.support.stack import Stack

# A stack of its own with the schedule on, more than an hour in all: run with `make soak`.
pytestmark = [pytest.mark.anyio, pytest.mark.stack, pytest.mark.soak]
HOUR_S = 3600.0
FIRST_LANE_S = 400.0


@pytest.fixture(scope="module")
def scheduled() -> Iterator[Stack]:
    """A stack of its own, every setting at its default, with the schedule of dispatch on."""
    home = Path(tempfile.mkdtemp(prefix="organism-hour-"))
    stack = default_stack(home, longs=8, long_s=HOUR_S)
    try:
        stack.run("up")
        stack.run("schedule", "dispatch", "on")
        yield stack
    finally:
        stack.run("down")
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize(
    ("seconds", "relieve_after_s"),
    [pytest.param(420.0, 60.0, id="seven minutes"), pytest.param(HOUR_S, 600.0, id="one hour")],
)
async def test_a_long_task_runs_once_while_runs_relieve_one_another(
    scheduled: Stack, seconds: float, relieve_after_s: float
) -> None:
    (evidence := scheduled.home / f"evidence-{seconds:g}").touch(mode=0o666)
    async with Queue(scheduled.state.dsn) as queue:
        await install_history(queue)
        params = {"seconds": seconds, "file": str(evidence)}
        [task] = await queue.submit([NewTask(type="long", params=params)])
        relieved = await _relieve_until_settled(scheduled, queue, relieve_after_s, seconds + FIRST_LANE_S)
        history = await read_history(queue, evidence, type="long")
        history.tasks = {task: history.tasks[task]}
        assert violations(history, {task: Expected("completed", 1)}, overlap_s=0.0) == []
        [run] = history.runs[task]
        assert run.begun
        assert run.ended
        assert run.ended - run.begun == pytest.approx(seconds, abs=30)
        row = history.tasks[task]
        assert (row["attempts"], row["interrupted"], row["lease_lost"]) == (1, 0, 0)
        assert history.charges[task] == []
        # No more: while one run is leaving, none is relieved for its age.
        assert len(relieved) >= 2, "too few runs relieved one another to prove anything"


async def _relieve_until_settled(
    stack: Stack, queue: Queue, relieve_after_s: float, patience_s: float
) -> set[str]:
    """Have runs take over from one another until nothing is left to do.

    Returns:
        The runs that claimed, one after another.
    """
    claiming: set[str] = set()
    deadline = time.monotonic() + patience_s
    due = 0.0
    while time.monotonic() < deadline and await queue.reader.remaining():
        claiming |= {lane.run for lane in await queue.reader.lanes() if lane.claiming and lane.run}
        if claiming and time.monotonic() > due:
            if due:
                # The schedule's own run would take over after an hour.
                start_run(stack, "dispatch", relay=True, relieve_after_s=relieve_after_s)
            due = time.monotonic() + relieve_after_s + 10
        await asyncio.sleep(2)
    return claiming
