"""Ranges of when tasks begin, on lines of every kind: they hold what happens as often as they say."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import accumulate, count
from random import Random

import pytest

from organism_flows.blocks.queue.explain.forecast import SHARE, LinePace, begin_of, room_after

Line = Callable[[Random], Iterator[tuple[float, int]]]
"""Gaps between claims, in seconds, each with how many tasks begin after it."""


def one_by_one(random: Random) -> Iterator[tuple[float, int]]:
    while True:
        yield random.expovariate(2), 1


def by_the_clock(_: Random) -> Iterator[tuple[float, int]]:
    while True:
        yield 2.0, 1


def batches(random: Random) -> Iterator[tuple[float, int]]:
    while True:
        yield random.uniform(4, 8), random.randint(1, 40)


def even_batches(_: Random) -> Iterator[tuple[float, int]]:
    while True:
        yield 30.0, 100


def uneven_handlers(random: Random) -> Iterator[tuple[float, int]]:
    while True:
        yield random.lognormvariate(0, 1.5), 1


def with_others(random: Random) -> Iterator[tuple[float, int]]:
    """A line that others delay for some seconds from time to time."""
    for number in count():
        yield random.expovariate(4) + (random.uniform(5, 20) if number % 40 == 0 else 0), 1


LINES: list[Line] = [one_by_one, by_the_clock, batches, even_batches, uneven_handlers, with_others]


READ = 1200
"""Most tasks of the past that are read."""
TRIES = 80


def pace_at(began: list[float], now: float, ahead: int) -> LinePace:
    past = began[: bisect_left(began, now)][-READ:]
    return LinePace(
        began=[now - moment for moment in reversed(past)],
        due=[now] * len(past),  # all were due from the start
        known_s=now - past[0] if len(past) == READ else 3600,
        waits_s=now,
        ahead=ahead,
        more=False,
    )


@cache
def share_held(line: Line) -> float:
    """Return the share of ranges that held the moment at which the task began."""
    random = Random(5)
    gaps = line(random)
    steps = [next(gaps) for _ in range(3000)]
    moments = list(accumulate(gap for gap, _ in steps))
    began = [moment for moment, (_, tasks) in zip(moments, steps, strict=True) for _ in range(tasks)]
    right = 0
    for _ in range(TRIES):
        now = random.uniform(400, moments[-1] / 2)
        done = bisect_left(began, now)
        ahead = random.randrange(min(400, len(began) - done - 1))
        wait = begin_of(pace_at(began, now, ahead))
        assert wait is not None
        real = began[done + ahead] - now
        right += wait.earliest_s - 0.01 <= real <= (wait.latest_s or real) + 0.01
    return right / TRIES


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.__name__)
def test_ranges_hold_as_often_as_they_say(line: Line) -> None:
    assert share_held(line) >= SHARE - 0.1


def test_they_are_no_wider_than_needed() -> None:
    assert sum(map(share_held, LINES)) / len(LINES) <= SHARE + 0.15
    assert min(map(share_held, LINES)) <= SHARE + 0.1, "handlers of uneven length need no wider ones"


def test_time_without_work_says_nothing_about_the_rate() -> None:
    burst = [float(n) / 10 for n in range(100)]
    idle = [1000 + 60.0 * n for n in range(40)]
    pace = LinePace([*burst, *idle], [10.0] * 100 + [ago + 0.01 for ago in idle], 3600, 10.0, 99, False)
    wait = begin_of(pace)
    assert wait is not None
    assert wait.window_s == pytest.approx(10)
    assert wait.per_s == pytest.approx(10)
    assert wait.earliest_s < 10 < (wait.latest_s or 0) < 20


@pytest.mark.parametrize(
    ("began", "waits_s"),
    [
        ([], 60.0),
        ([1.0 + n for n in range(7)], 60.0),
        ([1.0] * 100, 60.0),
        ([1.0] * 100, 0.0),
        ([90.0] * 100, 60.0),
    ],
)
def test_too_little_is_no_forecast(began: list[float], waits_s: float) -> None:
    assert begin_of(LinePace(began, [50.0] * len(began), 3600, waits_s, 3, False)) is None


@pytest.mark.parametrize(("ahead", "window_s"), [(3, 60), (900, 300), (8000, 900)])
def test_as_long_is_observed_as_is_foreseen(ahead: int, window_s: float) -> None:
    began = [0.5 + n / 10 for n in range(20_000)]
    wait = begin_of(LinePace(began, [5000.0] * len(began), 3600, 5000.0, ahead, False))
    assert wait is not None
    assert wait.window_s == window_s


def test_what_runs_and_is_not_known_to_have_begun_is_neither_ahead_nor_slow() -> None:
    """Ten a second, each for two seconds: of the 40 that are held, 20 have begun, and none is known."""
    began = [2 + n / 10 for n in range(1000)]
    wait = begin_of(LinePace(began, [300.0] * 1000, 3600, 300.0, 0, False, held=40, took_s=2.0))
    assert wait is not None
    assert wait.per_s == pytest.approx(10, rel=0.05)
    assert wait.latest_s is not None
    assert wait.earliest_s < 2.1 < wait.latest_s < 3.5


def test_more_ahead_than_counted_leaves_the_end_open() -> None:
    wait = begin_of(replace(pace_at([n / 10 for n in range(2000)], 200, 10_000), more=True))
    assert wait is not None
    assert wait.latest_s is None
    assert wait.earliest_s > 900


def test_room_comes_when_running_tasks_usually_end() -> None:
    random = Random(3)
    right = 0
    for _ in range(300):
        durations = [random.lognormvariate(3, 1) for _ in range(200)]
        running = [random.lognormvariate(3, 1) for _ in range(3)]
        ages = [random.uniform(0, one) for one in running]
        found = room_after(ages, durations)
        assert found is not None
        right += found[0] <= min(one - age for one, age in zip(running, ages, strict=True)) <= found[1]
    assert SHARE - 0.1 <= right / 300 <= SHARE + 0.12


def test_room_is_not_known_without_comparable_tasks() -> None:
    assert room_after([1.0], [2.0] * 7) is None
    assert room_after([99.0], [2.0] * 20) is None
    assert room_after([], [2.0] * 20) is None
    assert room_after([1.5, 99.0], [2.0] * 20) == (0.5, 0.5)
