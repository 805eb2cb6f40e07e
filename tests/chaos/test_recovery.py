"""The measure of a chaos run is itself measured: on histories whose recovery is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import uuid4

import pytest

from tests.chaos.chaos import Plan, schedule
from tests.chaos.recovery import Timeline
from tests.support.history import Change, Charge, History

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
RATE = 20
"""Tasks settled per second in these histories."""
KILL = 20.0


def at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def history_with(*, pause: float = 0.0, lost: int = 0, back_after: float = 0.0) -> History:
    """A minute of steady work with a kill at `KILL`, after which nothing is settled for ``pause`` seconds."""
    history = History({}, {}, {})
    moments = [i / RATE for i in range(60 * RATE)]
    for settled in moments:
        if not KILL < settled <= KILL + pause:
            history.changes[uuid4()] = [
                Change(at(settled - 0.01), 1, "queued", "running", "a"),
                Change(at(settled), 1, "running", "completed", "a"),
            ]
    for _ in range(lost):
        task = uuid4()
        history.changes[task] = [
            Change(at(KILL - 1), 1, "queued", "running", "a"),
            Change(at(KILL + back_after), 1, "running", "retry", "a"),
            Change(at(50), 2, "retry", "running", "b"),
            Change(at(50), 2, "running", "completed", "b"),
        ]
        history.charges[task] = [Charge(1, "lease_lost", "", at(KILL + back_after))]
    return history


@pytest.mark.parametrize("pause", [0.0, 4.0, 12.0])
def test_the_flow_is_back_when_half_the_rate_is(pause: float) -> None:
    recovery = Timeline(history_with(pause=pause), before_s=10).after(at(KILL).timestamp())
    assert recovery.rate_before == RATE
    assert recovery.flow_s == pytest.approx(pause, abs=0.2)
    assert (recovery.lost, recovery.back_s) == (0, 0)


def test_a_flow_that_never_comes_back_has_no_time() -> None:
    timeline = Timeline(history_with(pause=39.9), before_s=10)
    assert timeline.after(at(KILL).timestamp()).seconds is None


def test_lost_tasks_count_until_the_last_is_taken_back() -> None:
    recovery = Timeline(history_with(lost=3, back_after=7.5), before_s=10).after(at(KILL).timestamp())
    assert recovery.lost == 3
    assert recovery.back_s == pytest.approx(7.5)
    assert recovery.seconds == pytest.approx(7.5)


def test_a_standstill_is_found_and_long_tasks_do_not_hide_it() -> None:
    history = history_with(pause=12.0)
    long = uuid4()
    history.tasks[long] = {"type": "long"}
    history.changes[long] = [
        Change(at(1), 1, "queued", "running", "a"),
        Change(at(KILL + 6), 1, "running", "completed", "a"),
    ]
    timeline = Timeline(history, before_s=10)
    [(begin, end)] = timeline.standstills(10.0, at(60).timestamp())
    assert begin == pytest.approx(at(KILL).timestamp(), abs=0.1)
    assert end - begin == pytest.approx(12.0, abs=0.1)
    assert timeline.standstills(15.0, at(60).timestamp()) == []
    assert timeline.standstills(10.0, at(KILL - 1).timestamp()) == []


def test_the_same_seed_kills_the_same() -> None:
    def plan(seed: int) -> Plan:
        return Plan(seed, 100, 60, ("lane", "flow", "ray", "proxy"), (1, 2))

    first = list(islice(schedule(plan(7)), 50))
    assert first == list(islice(schedule(plan(7)), 50))
    assert first != list(islice(schedule(plan(8)), 50))
