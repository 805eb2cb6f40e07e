"""When a task will begin, and when a limit will have room, as ranges that hold four times in five.

Both come from what was observed lately, not from what the queue is configured to do. So they need to know
nothing of shares, limits, replicas or handlers: all of that has shaped what was observed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from statistics import NormalDist, variance

SHARE = 0.8
"""Share of ranges that hold the moment which they are about."""
Z = NormalDist().inv_cdf((1 + SHARE) / 2)
"""Standard deviations from the mean to an end of a range."""
FEWEST = 8
"""Fewest slots with tasks, or fewest durations, from which something is said."""
ENOUGH = 50
"""Tasks that began within a window from which on a longer window is not needed."""
WINDOWS_S = (60.0, 300.0, 900.0, 3600.0)
"""Windows of observation, in seconds. Rates change, so that the shortest is used in which `ENOUGH` tasks
began, and as many as are ahead: to say something of the next ten minutes takes about ten of observation."""
KNOWN_AFTER_S = 3.0
"""Seconds after which it is known that a handler has begun, although it has not ended."""
SLOTS = 60
"""Parts of equal length of a window, in which tasks are counted."""
SCALES = (1, 2, 3, 4, 6, 12)
"""Slots of a block, over which the spread is found. The longest leaves 5 blocks."""
LATEST = 100
"""Times the expected wait beyond which no end of a range is given."""
STEPS = 40
"""Halvings of an interval in which a bound is searched."""


@dataclass(frozen=True, slots=True)
class LinePace:
    """What a line of tasks has done lately, and how a task stands in it. Moments are seconds before now."""

    began: Sequence[float]
    """When its tasks began, the newest first."""
    due: Sequence[float]
    """Since when each of these was due."""
    known_s: float
    """How far back all that began are known."""
    waits_s: float
    """For how long the first of its waiting tasks has been due."""
    ahead: int
    """Tasks that begin before this one."""
    more: bool
    """True if there are more than were counted."""
    held: int = 0
    """Tasks of the line that lanes hold, of which it is not known whether a handler has begun."""
    took_s: float = 0.0
    """How long its tasks took lately."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A range of waits, in seconds from now."""

    earliest_s: float
    latest_s: float | None
    """`None` means that what was observed gives no end."""
    per_s: float
    """Tasks a second that began in the window."""
    window_s: float


def begin_of(pace: LinePace) -> Wait | None:
    """Return in which range of time a task begins. `None` means that too little was observed.

    The number of tasks that begin within a time t is taken to be normally distributed: its mean is the rate
    that was observed times t. Its variance has two parts. One is how much the numbers of tasks in blocks of
    about that length differ, so that batches, handlers of uneven length and turns of other lines count as
    they were. The other is how little is known of the rate itself: it was observed for one window.
    """
    # What began since is known in part only: it ends first, or runs for some seconds.
    late_s = min(pace.took_s, KNOWN_AFTER_S)
    busy_s = max(min(_busy_s(pace), pace.known_s) - late_s, 0.0)
    began = [ago - late_s for ago in pace.began if 0 <= ago - late_s < busy_s]
    number = pace.ahead + pace.held + 1.0
    for window_s in (min(window_s, busy_s) for window_s in WINDOWS_S):
        counts = _counted(began, window_s)
        seen = sum(counts) >= max(ENOUGH, number) and _is_enough(counts)
        if seen or window_s == busy_s:
            break
    if not _is_enough(counts):
        return None
    rate = sum(counts) / SLOTS
    # Of those that are held, as many have begun as run at once, by Little's law.
    number -= min(sum(counts) / window_s * late_s, pace.held)
    expected = number / rate
    scales = [scale for scale in SCALES if scale == 1 or scale <= expected]
    spreads = [_spread(counts, scale) for scale in scales]
    a_slot = spreads[-1] / scales[-1]
    deviations = _deviations(SLOTS // scales[-1])
    # Not less than over any shorter block: evenly timed batches differ little in the long run, but the moment
    # of the next one is uncertain all the same. And a number of tasks is whole.
    least = max(*spreads, 1.0)

    def bound(sign: float) -> float | None:
        def reached(slots: float) -> float:
            spread = max(a_slot * slots, least) + a_slot * slots**2 / SLOTS
            return rate * slots + sign * deviations * sqrt(spread)

        return _first(number, reached, expected)

    earliest, latest = bound(1), bound(-1)
    slot_s = window_s / SLOTS
    return Wait(
        (earliest or 0.0) * slot_s,
        None if latest is None or pace.more else latest * slot_s,
        sum(counts) / window_s,
        window_s,
    )


def room_after(ages: Sequence[float], durations: Sequence[float]) -> tuple[float, float] | None:
    """Return in which range of seconds the first of some running tasks ends.

    Each is taken to end as those did that ran as long as it has by now. `None` means that too few are known
    that did.

    Args:
        ages: Seconds for which each has run.
        durations: Seconds that tasks of the same types took lately.
    """
    usual = sorted(durations)
    left = [(age, len(usual) - bisect_right(usual, age)) for age in ages]
    comparable = [(age, longer) for age, longer in left if longer > 0]
    if len(usual) < FEWEST or not comparable:
        return None

    def ended(seconds: float) -> float:
        """Return the probability that one has ended by then."""
        return 1 - prod(
            (len(usual) - bisect_right(usual, age + seconds)) / longer for age, longer in comparable
        )

    longest = usual[-1] - min(age for age, _ in comparable)
    earliest = _first((1 - SHARE) / 2, ended, longest)
    latest = _first((1 + SHARE) / 2, ended, longest)
    return earliest or 0.0, longest if latest is None else latest


def _busy_s(pace: LinePace) -> float:
    """Return for how long a task of the line has been waiting at every moment.

    Before that it had nothing to begin, and what it did says nothing about how fast it is.
    """
    busy_s = pace.waits_s
    for began, due in zip(pace.began, pace.due, strict=True):
        if began > busy_s:
            break
        busy_s = max(busy_s, due)
    return busy_s


def _counted(began: Sequence[float], window_s: float) -> list[int]:
    """Return how many tasks began in each slot of a window, the newest slot first."""
    counts = [0] * SLOTS
    for ago in began[: bisect_left(began, window_s)]:
        counts[min(int(ago / window_s * SLOTS), SLOTS - 1)] += 1
    return counts


def _is_enough(counts: Sequence[int]) -> bool:
    # Not of tasks: those of one batch begin together.
    return sum(map(bool, counts)) >= FEWEST


def _deviations(blocks: int) -> float:
    """Return the standard deviations to an end of a range, if they are known from so few numbers.

    The first terms of Student's distribution: 1.46 for 5 blocks and 1.31 for 60, where `Z` is 1.28.
    """
    return Z * (1 + (Z**2 + 1) / (4 * (blocks - 1)))


def _spread(counts: Sequence[int], scale: int) -> float:
    """Return the variance of the numbers of tasks in blocks of ``scale`` slots."""
    return float(variance(sum(counts[begin : begin + scale]) for begin in range(0, len(counts), scale)))


def _first(target: float, value: Callable[[float], float], expected: float) -> float | None:
    """Return where ``value``, which grows from 0 on, reaches ``target``. `None` means nowhere near."""
    if value(0.0) >= target:
        return 0.0
    low, high = 0.0, expected
    while value(high) < target:
        low, high = high, 2 * high
        if high > LATEST * expected:
            return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if value(middle) >= target else (middle, high)
    return high
