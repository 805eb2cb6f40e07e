"""Whether a lane lives, told from outside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.flows.supervision.lane_liveness import ENDING_S, LEAVING_S, REGISTER_S, LaneLiveness

LEASE_S = 15.0


def row(renewal: int, *, lane: str = "lane-a", settled: int = 0) -> LaneRow:
    moment = datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=renewal)
    return LaneRow(
        id=lane,
        run="a run",
        number=1,
        host="here",
        pid=1,
        started_at=moment,
        renewed_at=moment,
        # The database's own times are never looked at: it may be hours away.
        lease_until=moment - timedelta(hours=3),
        settled=settled,
        stop_requested=False,
        live=False,
    )


@pytest.fixture
def lane() -> LaneLiveness:
    return LaneLiveness(LEASE_S, 100.0)


def test_a_lane_that_renews_lives(lane: LaneLiveness) -> None:
    for second in range(100, 1000):
        lane.record(row(second // 5), second)
        assert lane.trouble(second) is None


def test_a_lane_that_fell_silent_is_ended(lane: LaneLiveness) -> None:
    lane.record(row(1), 105)
    lane.record(row(1), 105 + LEASE_S + ENDING_S)
    assert lane.trouble(105 + LEASE_S + ENDING_S) is None
    assert "not renewed" in (lane.trouble(106 + LEASE_S + ENDING_S) or "")


def test_a_lane_that_was_reaped_is_ended_as_soon(lane: LaneLiveness) -> None:
    lane.record(row(1), 105)
    lane.record(row(1), 104 + LEASE_S)
    lane.record(None, 105 + LEASE_S)
    assert lane.trouble(105 + LEASE_S) is None
    assert "not renewed" in (lane.trouble(106 + LEASE_S + ENDING_S) or "")


def test_a_lane_that_left_in_order_may_report_in_peace(lane: LaneLiveness) -> None:
    lane.record(row(1), 105)
    lane.record(None, 108)
    assert lane.trouble(108 + LEAVING_S) is None
    assert "did not end" in (lane.trouble(109 + LEAVING_S) or "")


def test_a_lane_that_never_registers_is_ended(lane: LaneLiveness) -> None:
    lane.record(None, 100 + REGISTER_S)
    assert lane.trouble(100 + REGISTER_S) is None
    assert "register" in (lane.trouble(101 + REGISTER_S) or "")


def test_a_lane_that_begins_again_after_it_lost_its_lease_lives(lane: LaneLiveness) -> None:
    lane.record(row(1, settled=10), 105)
    lane.record(row(1, settled=10), 104 + LEASE_S)
    lane.record(None, 106 + LEASE_S)
    lane.record(row(20, lane="lane-b", settled=3), 109 + LEASE_S)
    assert lane.trouble(112 + LEASE_S + ENDING_S) is None
    assert lane.settled() == 13
    assert lane.settled(without="lane-b") == 10


def test_a_time_without_an_answer_proves_nothing(lane: LaneLiveness) -> None:
    lane.record(row(1), 105)
    # Postgres was away for an hour, or this process was frozen; the lane came through it.
    lane.record(row(3600), 3705)
    assert lane.trouble(3705) is None
