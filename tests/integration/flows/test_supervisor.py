"""How a dispatch run bears that Postgres goes away before it has begun, or Prefect's server while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from organism_flows.blocks.errors import QueueUnavailable
from organism_flows.blocks.queue import Queue
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.prefect_support import states
from organism_flows.flows.supervision import supervisor as module
from organism_flows.flows.supervision.lane_task import LaneEnd, LaneOptions, LaneRun
from organism_flows.flows.supervision.run_page import DispatchProgress
from organism_flows.flows.supervision.supervisor import DispatchSummary, Supervisor
from tests.support.proxy import proxied

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("until_empty", [False, True])
async def test_a_postgres_that_went_away_is_named(
    database: str, monkeypatch: pytest.MonkeyPatch, until_empty: bool
) -> None:
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("test"))

    def start_lane(number: int, seconds: float | None) -> LaneRun:
        raise AssertionError("no lane without a queue")

    options = LaneOptions(
        run="r", batch_size=1, tasks_in_flight=1, until_empty=until_empty, max_seconds=None, grace_s=1
    )
    async with proxied(database) as proxy:
        queue = Queue(proxy.dsn)
        await queue.__aenter__()
        proxy.cut()
    # Its port is closed, as that of a server that is down.
    with pytest.raises(QueueUnavailable, match=r"127\.0\.0\.1"):
        await Supervisor(queue, options, start_lane, 1, asyncio.Event(), stop_nothing).run()
    await queue.close()


async def stop_nothing(runs: Mapping[str, int]) -> None:
    assert not runs


class StubLane:
    """A lane that ends as told, at once."""

    marked = None
    age_s = 1.0

    def __init__(self, number: int, end: LaneEnd) -> None:
        self.number = number
        self.end = end

    async def ended(self) -> LaneEnd:
        return self.end


async def test_lanes_are_replaced_while_prefects_server_hangs(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(states, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(states, "PAGE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(module, "PREFECT_WAIT_S", 0.2)
    monkeypatch.setattr(module, "PROGRESS_INTERVAL_S", 0.0)
    monkeypatch.setattr(module, "CHECK_INTERVAL_S", 0.02)

    async def hang(*_: object, **__: object) -> bool:
        await asyncio.Event().wait()
        return False

    monkeypatch.setattr(DispatchProgress, "show", hang)
    monkeypatch.setattr(module, "report_failures", hang)
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda: _Hanging())

    def start_lane(number: int, seconds: float | None) -> Any:
        if number <= 3:
            return StubLane(number, LaneEnd(error="died", lost=True))
        return StubLane(number, LaneEnd(summary=LaneSummary(lane="the last")))

    options = LaneOptions(
        run="r", batch_size=1, tasks_in_flight=1, until_empty=True, max_seconds=None, grace_s=1
    )
    async with asyncio.timeout(20):
        state = await Supervisor(queue, options, start_lane, 1, asyncio.Event(), stop_nothing).run()
    assert state.is_completed()
    assert isinstance(state.data, DispatchSummary)
    assert state.data.lanes == 4


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Prefect server answers, and lanes are looked at often."""
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(states, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(states, "PAGE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(module, "PREFECT_WAIT_S", 0.2)
    monkeypatch.setattr(module, "CHECK_INTERVAL_S", 0.02)
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda: _Hanging())


async def test_a_lane_that_leaves_with_its_node_is_replaced_before_it_has_ended(
    queue: Queue, alone: None
) -> None:
    await queue.leases.register("first", run="r", number=1)
    await queue.leases.renew("first", settled=0, figures={}, leaving=True)
    replaced = asyncio.Event()

    class LeavingLane(StubLane):
        async def ended(self) -> LaneEnd:
            await replaced.wait()
            # Its node is gone before it has ended: that is no reason for another replacement.
            return LaneEnd(error="its process died", lost=True)

    def start_lane(number: int, seconds: float | None) -> Any:
        if number == 1:
            return LeavingLane(number, LaneEnd())
        replaced.set()
        return StubLane(number, LaneEnd(summary=LaneSummary(lane="the last")))

    assert await lanes_of_run(queue, start_lane) == (2, 1)


async def test_a_lane_that_has_left_its_node_by_the_next_look_is_replaced(queue: Queue, alone: None) -> None:
    def start_lane(number: int, seconds: float | None) -> Any:
        drained = number == 1
        return StubLane(number, LaneEnd(summary=LaneSummary(lane=f"lane-{number}", node_drained=drained)))

    assert await lanes_of_run(queue, start_lane) == (2, 0)


async def lanes_of_run(queue: Queue, start_lane: Any) -> tuple[int, int]:
    """How many lanes a run of one had, and how many of them died."""
    options = LaneOptions(
        run="r", batch_size=1, tasks_in_flight=1, until_empty=False, max_seconds=None, grace_s=1
    )
    async with asyncio.timeout(60):
        state = await Supervisor(queue, options, start_lane, 1, asyncio.Event(), stop_nothing).run()
    assert state.is_completed()
    assert isinstance(state.data, DispatchSummary)
    return state.data.lanes, state.data.lanes_died


class _Hanging:
    async def __aenter__(self) -> None:
        await asyncio.Event().wait()

    async def __aexit__(self, *_: object) -> None:
        pass
