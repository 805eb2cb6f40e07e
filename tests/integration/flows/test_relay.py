"""Runs of dispatch relieve one another: which works, and that no task is interrupted by it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.flows.dispatch import dispatch
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.prefect_support import states
from organism_flows.flows.supervision import handover
from organism_flows.flows.supervision import supervisor as module
from organism_flows.flows.supervision.handover import HandoverDecision, superfluous, turn
from organism_flows.flows.supervision.lane_task import LaneEnd, LaneOptions
from organism_flows.flows.supervision.supervisor import Supervisor
from tests.support.history import check_history
from tests.support.stack import Stack, until

pytestmark = pytest.mark.anyio
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def lane(run: str, *, age_s: float = 0.0, **more: Any) -> LaneRow:
    began = NOW - timedelta(seconds=age_s)
    fields: dict[str, Any] = {
        "id": uuid4().hex,
        "number": 1,
        "host": "here",
        "pid": 1,
        "started_at": began,
        "renewed_at": NOW,
        "lease_until": NOW + timedelta(seconds=15),
        "settled": 0,
        "stop_requested": False,
        "live": True,
        "relay": True,
        "run_started_at": began,
    }
    return LaneRow(run=run, **{**fields, **more})


def leaving(run: str) -> LaneRow:
    return lane(run, age_s=9000, leaving_at=NOW)


@pytest.mark.parametrize(
    ("lanes", "relieve_after_s", "expected"),
    [
        ([], 3600, HandoverDecision()),
        ([lane("by hand", relay=False)], 3600, HandoverDecision()),
        ([lane("dead", live=False)], 3600, HandoverDecision()),
        ([leaving("a")], 3600, HandoverDecision()),
        ([lane("a", stop_requested=True)], 3600, HandoverDecision()),
        ([lane("a", age_s=3601)], 3600, HandoverDecision(relieve=("a",))),
        ([lane("a", age_s=3601), lane("b", age_s=3700)], 3600, HandoverDecision(relieve=("a", "b"))),
        ([lane("a", age_s=1)], 0, HandoverDecision(relieve=("a",))),
        ([lane("a", age_s=1), leaving("b")], 0, HandoverDecision(relieve=("a",))),
    ],
)
def test_a_run_works_when_none_does_and_relieves_what_is_old(
    lanes: list[LaneRow], relieve_after_s: float, expected: HandoverDecision
) -> None:
    assert turn(lanes, NOW, relieve_after_s=relieve_after_s) == expected


@pytest.mark.parametrize(
    ("lanes", "words"),
    [
        ([lane("a", age_s=3599)], "run a works since 2029-12-31 23:00:01 UTC"),
        # Replaced lanes are younger than their run.
        ([lane("a", age_s=3599), lane("a", age_s=3599, started_at=NOW)], "run a works since"),
        ([lane("a", age_s=9999), lane("b", age_s=10)], "run b works since"),
        ([lane("a", age_s=9999), leaving("b")], "run a works on until b has left, which waits for its tasks"),
    ],
)
def test_a_run_that_is_not_needed_says_why(lanes: list[LaneRow], words: str) -> None:
    found = turn(lanes, NOW, relieve_after_s=3600)
    assert found.relieve == ()
    assert words in (found.not_needed or "")


def test_of_two_that_began_at_once_one_goes_on() -> None:
    lanes = [lane("a", age_s=5), lane("b", age_s=4), lane("by hand", age_s=900, relay=False), leaving("c")]
    assert [superfluous(lanes, run, ()) for run in "ab"] == [False, True]
    assert not superfluous(lanes, "b", ["a"]), "it is there to relieve the other"
    assert not superfluous([lane("b")], "b", ())
    same = [lane("a"), lane("b")]
    assert sorted(superfluous(same, run, ()) for run in "ab") == [False, True]


class StubLane:
    """A lane that has a lease, and ends when it is asked to leave."""

    marked = None
    age_s = 100.0

    def __init__(self, queue: Queue, run: str, number: int) -> None:
        self.queue, self.run, self.number = queue, run, number
        self.id = f"{run}-{number}"
        self.left = asyncio.Event()

    async def ended(self) -> LaneEnd:
        await self.queue.leases.register(self.id, run=self.run, number=self.number, relay=True)
        while True:
            asked = await self.queue.leases.renew(self.id)
            if asked is None or asked.leave or asked.stop:
                break
            await asyncio.sleep(0.02)
        self.left.set()
        await self.queue.leases.deregister(self.id)
        return LaneEnd(summary=LaneSummary(lane=self.id))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(states, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(module, "CHECK_INTERVAL_S", 0.02)
    monkeypatch.setattr(module, "PREFECT_WAIT_S", 0.0)
    monkeypatch.setattr(handover, "SCHEDULE_CHECK_S", 0.05)

    async def shown(*pages: Any, **_: object) -> bool:
        for page in pages:
            if asyncio.iscoroutine(page):
                await page
        return True

    monkeypatch.setattr(module, "wait_for_prefect", shown)
    monkeypatch.setattr(module, "show", shown)
    monkeypatch.setattr(module, "report_failures", shown)


async def nothing(_: Mapping[str, int]) -> None:
    pass


def supervised(queue: Queue, run: str, lanes: list[StubLane], **more: Any) -> Supervisor:
    options = LaneOptions(
        run=run, batch_size=1, tasks_in_flight=1, until_empty=False, max_seconds=None, grace_s=1, relay=True
    )

    def start_lane(number: int, seconds: float | None) -> Any:
        lanes.append(StubLane(queue, run, number))
        return lanes[-1]

    return Supervisor(queue, options, start_lane, 2, asyncio.Event(), nothing, **more)


async def test_the_older_run_leaves_when_the_lanes_of_the_newer_are_there(queue: Queue, quick: None) -> None:
    older: list[StubLane] = []
    newer: list[StubLane] = []
    first = asyncio.create_task(supervised(queue, "older", older).run())
    await until(lambda: _claiming(queue, {"older": 2}))
    second = asyncio.create_task(supervised(queue, "newer", newer, relieve=["older"]).run())
    state = await asyncio.wait_for(first, 20)
    assert state.is_completed(), "relieved is not cancelled"
    assert await _claiming(queue, {"newer": 2}), "no moment without a lane that claims"
    await queue.operator.request_leave("newer")
    assert (await asyncio.wait_for(second, 20)).is_completed()
    assert len(older) == len(newer) == 2, "what leaves is not replaced"


async def test_of_two_runs_the_younger_leaves(queue: Queue, quick: None) -> None:
    first = asyncio.create_task(supervised(queue, "a", []).run())
    await until(lambda: _claiming(queue, {"a": 2}))
    state = await asyncio.wait_for(supervised(queue, "b", []).run(), 20)
    assert state.is_completed()
    assert await _claiming(queue, {"a": 2})
    await queue.operator.request_leave("a")
    await asyncio.wait_for(first, 20)


@pytest.mark.parametrize("ever_on", [True, False])
async def test_a_schedule_that_is_turned_off_ends_the_run_it_started(
    queue: Queue, quick: None, monkeypatch: pytest.MonkeyPatch, ever_on: bool
) -> None:
    on = [ever_on]
    looks: list[bool] = []

    async def schedule_is_on(_: object) -> bool:
        looks.append(on[0])
        if len(looks) == 2:
            raise ConnectionError("Prefect's server is away")
        return on[0]

    monkeypatch.setattr(handover, "schedule_is_on", schedule_is_on)
    run = asyncio.create_task(supervised(queue, "a", [], deployment_id=uuid4()).run())
    await until(lambda: len(looks) > 3)
    assert not run.done()
    on[0] = False
    seen = len(looks)
    if ever_on:
        assert (await asyncio.wait_for(run, 20)).is_completed()
    else:
        await until(lambda: len(looks) > seen + 3)
        assert not run.done(), "it was started by hand: nobody has turned anything off"
        await queue.operator.request_leave("a")
        await asyncio.wait_for(run, 20)


async def _claiming(queue: Queue, expected: dict[str, int]) -> bool:
    claiming = [row.run for row in await queue.reader.lanes() if row.claiming]
    return {run: claiming.count(run) for run in claiming} == expected


@pytest.mark.stack
async def test_a_long_task_runs_once_through_hand_overs(stack: Stack, stack_queue: Queue) -> None:
    """For real: three runs of the relay, each relieving the one before, while one task goes on."""
    evidence: Path = stack.home / f"evidence-{uuid4().hex}"
    evidence.touch()
    until_file = stack.home / f"until-{uuid4().hex}"
    [long] = await stack_queue.submit([NewTask(type="slow", params={"until": str(until_file)})])
    runs = []
    every = [str(long)]
    worked: set[str] = set()
    for number in range(3):
        runs.append(asyncio.create_task(dispatch(relay=True, relieve_after_s=0)))
        await until(lambda: _begun_under_one_lane(stack_queue, str(long)), patience=90)
        short = {"seconds": 0.01, "file": str(evidence)}
        ids = [str(i) for i in await stack_queue.submit([NewTask(type="evidence", params=short)] * 5)]
        every += ids
        await until(partial(_all_completed, stack_queue, ids), patience=90)
        # Another claims; of those before only the one that holds the task is still there.
        await until(partial(_taken_over, stack_queue, worked, leaving=min(number, 1)), patience=90)
        worked |= {str(row.run) for row in await stack_queue.reader.lanes() if row.claiming}
    not_needed = await dispatch(relay=True)
    assert (not_needed.lanes, not_needed.claimed) == (0, 0)
    assert not runs[0].done(), "the first still waits for the long task"
    until_file.touch()
    summary = await asyncio.wait_for(runs[0], 60)
    assert summary.completed >= 1
    task = await stack_queue.get(str(long))
    assert (task.status, task.attempts, task.interrupted, task.history) == ("completed", 1, 0, [])
    rows = [row for row in await stack_queue.reader.lanes() if row.claiming and row.run]
    for row in rows:
        await stack_queue.operator.request_leave(str(row.run))
    await asyncio.wait_for(asyncio.gather(*runs[1:]), 60)
    await check_history(stack_queue, every)
    assert await stack_queue.reader.lanes() == []


async def _begun_under_one_lane(queue: Queue, task_id: str) -> bool:
    task = await queue.get(task_id)
    return task.begun_at is not None and task.locked_at is not None and task.begun_at >= task.locked_at


async def _all_completed(queue: Queue, ids: list[str]) -> bool:
    return all([(await queue.get(i)).status == "completed" for i in ids])


async def _taken_over(queue: Queue, worked: set[str], *, leaving: int) -> bool:
    rows = await queue.reader.lanes()
    claiming = [str(row.run) for row in rows if row.claiming]
    return len(claiming) == 1 and claiming[0] not in worked and len(rows) == 1 + leaving
