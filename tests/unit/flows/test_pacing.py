"""How many tasks a lane takes and how many a call carries: properties, and a simulated organism."""

from __future__ import annotations

import heapq
from collections import Counter
from math import ceil, log

import hypothesis.strategies as st
import pytest
from hypothesis import given

from organism_flows.blocks.queue import Batch
from organism_flows.flows.lanes.windows import (
    BYTES_A_CALL,
    BYTES_IN_FLIGHT,
    CALLS_A_WINDOW,
    FIRST_WINDOW,
    GROWTH,
    SLACK_S,
    CallRecord,
    Window,
    Windows,
)
from tests.support.flows.claimed_tasks import numbers, tasks

CAP = 4000


class SimulatedOrganism:
    """Runs so many tasks of one type at once, each for the same time, and is a little way off.

    Args:
        concurrency: Tasks that run at once.
        service_s: What each takes.
        overhead_s: What a call, the way back and the settlement take besides.
    """

    def __init__(self, pace: Windows, concurrency: int, service_s: float, overhead_s: float = 0.03) -> None:
        self.pace = pace
        self.service_s = service_s
        self.overhead_s = overhead_s
        self.now = 0.0
        self.busy_s = 0.0
        self._free_at = [0.0] * concurrency
        self._coming: list[tuple[float, int, CallRecord, bool]] = []

    def run(self, calls: int) -> None:
        """Claim as a lane does, and work off, until so many calls have ended."""
        while calls:
            self._claim()
            self.now, _, record, last = heapq.heappop(self._coming)
            self.pace.settled("t", 1)
            if last:
                self.pace.learn(record)
                calls -= 1

    def drain(self) -> None:
        while self._coming:
            heapq.heappop(self._coming)
            self.pace.settled("t", 1)

    def _claim(self) -> None:
        room = min(self.pace.left, self.pace.room("t"))
        if room <= 0:
            return
        for _, call in self.pace.calls(tasks(["t"] * room)):
            record = self.pace.begin("t")
            ends = []
            for _ in range(len(call)):
                start = max(heapq.heappop(self._free_at), self.now + self.overhead_s / 2)
                heapq.heappush(self._free_at, start + self.service_s)
                ends.append(start + self.service_s + self.overhead_s / 2)
            record.settled = len(call)
            record.service_s = len(call) * self.service_s
            record.latency_s = sum(ends) - len(call) * self.now
            self.busy_s += record.service_s
            for end in sorted(ends)[:-1]:
                heapq.heappush(self._coming, (end, next(numbers), record, False))
            heapq.heappush(self._coming, (max(ends), next(numbers), record, True))


@pytest.mark.parametrize(
    ("concurrency", "service_s"), [(1, 0.5), (2, 10.0), (4, 1.0), (16, 0.5), (64, 0.2), (200, 2.0)]
)
def test_a_window_holds_what_is_run_and_what_is_on_its_way(concurrency: int, service_s: float) -> None:
    pace = Windows(500, CAP)
    organism = SimulatedOrganism(pace, concurrency, service_s)
    organism.run(800)
    began, busy_s, sizes = organism.now, organism.busy_s, []
    for _ in range(1600):
        organism.run(1)
        sizes.append(pace.window("t").size)
    expected = concurrency * (1 + SLACK_S / service_s)
    assert expected - 1 <= sum(sizes) / len(sizes) <= 1.3 * expected + 1
    assert 1 <= min(sizes) <= max(sizes) <= 2 * expected + 2
    assert organism.busy_s - busy_s >= 0.95 * concurrency * (organism.now - began), "nobody waits for work"


@pytest.mark.parametrize("size", [1.0, 1.4, 1.9, 2.7, 2.99])
def test_a_small_window_grows_as_long_as_its_tasks_do_not_wait(size: float) -> None:
    pace = Windows(500, CAP)
    pace.window("t").size = size
    SimulatedOrganism(pace, 8, 2.0).run(100)
    assert pace.window("t").size >= 8


def test_a_window_follows_when_tasks_become_slower_and_quicker() -> None:
    pace = Windows(500, CAP)
    organism = SimulatedOrganism(pace, 8, 0.01)
    organism.run(300)
    quick = pace.window("t").size
    organism.service_s = 2.0
    organism.run(300)
    slow = pace.window("t").size
    organism.service_s = 0.01
    organism.run(300)
    assert quick > 5 * slow
    assert slow <= 2 * 8 * (1 + SLACK_S / 2.0)
    assert pace.window("t").size > 5 * slow


def test_no_ops_fill_the_cap_within_some_windows_and_calls_become_large() -> None:
    pace = Windows(500, CAP)
    organism = SimulatedOrganism(pace, 1000, 0.0)
    rounds = ceil(log(CAP / FIRST_WINDOW, GROWTH))
    organism.run(2 * rounds * CALLS_A_WINDOW)
    assert organism.now <= 2 * rounds * organism.overhead_s, "as much with each window as may be, or nearly"
    assert pace.window("t").size == CAP
    assert pace.window("t").call_size(500) == 500
    organism.drain()
    assert pace.in_flight == pace.window("t").in_flight == 0


def test_a_window_shrinks_while_nobody_takes_its_calls_and_never_below_one() -> None:
    pace = Windows(500, CAP)
    sizes = [pace.window("t").size]
    for _ in range(10):
        pace.back_off("t")
        sizes.append(pace.window("t").size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    assert pace.room("t") == 1


def test_while_all_that_is_in_flight_runs_a_full_window_widens_and_what_waits_shrinks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tasks of hours: none ends from which a window could learn."""
    now = [1000.0]
    monkeypatch.setattr("organism_flows.flows.lanes.windows.time.monotonic", lambda: now[0])
    pace = Windows(500, CAP)
    slots = 5
    pace.calls(tasks(["t"] * 32))
    pace.shrink("t", slots)
    pace.settled("t", 32 - slots)
    assert (pace.window("t").size, pace.room("t")) == (slots, 0)
    assert not pace.widen("t"), "it has just been too much"
    tried = 0
    for _ in range(300):
        now[0] += 2
        if pace.widen("t"):
            tried += 1
            assert pace.room("t") == 1
            pace.calls(tasks(["t"]))
            pace.shrink("t", slots)
            pace.settled("t", 1)
    assert 30 <= tried <= 70, "one more every ten seconds: which replica has room is a matter of luck"
    pace.settled("t", slots)
    now[0] += 200
    assert pace.room("t") == slots
    pace.calls(tasks(["t"] * slots))
    for _ in range(20):
        now[0] += 2
        if pace.widen("t"):
            pace.calls(tasks(["t"] * pace.room("t")))
    assert pace.window("t").size > 4 * slots, "with more replicas it grows"


def test_a_type_is_held_back_until_a_task_of_it_ends() -> None:
    pace = Windows(500, CAP)
    pace.calls(tasks(["t"]))
    for _ in range(10):
        pace.shrink("t", 0)
    pace.settled("t", 1)
    assert pace.room("t") == 0, "it was handed back"
    pace.ended("t")
    assert pace.room("t") == 1


measurements = st.tuples(
    st.integers(1, 5000), st.floats(1e-6, 1e4), st.floats(0, 1e4), st.floats(1, 1e4), st.booleans()
)


@given(st.lists(measurements, max_size=60), st.floats(0, 1e9), st.integers(1, 10_000))
def test_a_window_stays_between_one_and_the_cap(
    calls: list[tuple[int, float, float, float, bool]], size: float, cap: int
) -> None:
    window = Window(bytes=size)
    for settled, latency_s, service_s, begun_in, full in calls:
        call = CallRecord("t", begun_in, full, 0.0, settled, settled * latency_s, settled * service_s)
        window.adjust(call, cap)
        assert 1 <= window.size <= cap
        assert 1 <= window.call_size(500) <= 500
        assert window.size * size <= BYTES_IN_FLIGHT * (1 + 1e-9) or window.size == 1


claimed = st.lists(st.tuples(st.sampled_from("tuv"), st.sampled_from([0, 0, 1, 2])), max_size=200)


@given(claimed, st.integers(1, 50))
def test_calls_hold_every_task_once_and_are_of_one_type(
    pairs: list[tuple[str, int]], batch_size: int
) -> None:
    pace = Windows(batch_size, CAP)
    batch = tasks([kind for kind, _ in pairs], [suspicion for _, suspicion in pairs])
    limits = {kind: pace.window(kind).call_size(batch_size) for kind in "tuv"}
    calls = [call for _, call in pace.calls(batch)]
    assert Counter(i for call in calls for i in call.ids) == Counter(batch.ids)
    for call in calls:
        assert len({*call.types}) == 1
        assert 1 <= len(call) <= min(limits[call.types[0]], batch_size)
        places = [batch.ids.index(i) for i in call.ids]
        assert places == sorted(places), "in the order they were claimed"
    assert pace.in_flight == len(batch)
    for call in calls:
        pace.settled(call.types[0], len(call))
    assert pace.in_flight == 0
    assert all(pace.window(kind).in_flight == 0 for kind in "tuv")


@given(st.integers(1, 2_000_000), st.integers(1, 30))
def test_a_call_carries_no_more_than_its_bytes(size: int, number: int) -> None:
    pace = Windows(500, CAP)
    pace.window("t").size = CAP
    for _, call in pace.calls(tasks(["t"] * number, params="x" * size)):
        assert len(call) == 1 or sum(map(len, call.params)) <= BYTES_A_CALL


actions = st.lists(st.tuples(st.sampled_from("tu"), st.booleans(), st.floats(0.001, 10)), max_size=80)


@given(actions, st.integers(1, 60))
def test_room_never_lets_more_in_flight_than_windows_and_cap_allow(
    steps: list[tuple[str, bool, float]], cap: int
) -> None:
    pace = Windows(20, cap)
    running: list[Batch] = []
    for kind, ends, latency_s in steps:
        if ends and running:
            call = running.pop(0)
            pace.settled(call.types[0], len(call))
            record = pace.begin(call.types[0])
            record.settled, record.latency_s = len(call), latency_s * len(call)
            pace.learn(record)
        elif (room := min(pace.room(kind), pace.left)) > 0:
            running += [call for _, call in pace.calls(tasks([kind] * room))]
            assert pace.window(kind).in_flight <= pace.window(kind).size
        assert 0 <= pace.in_flight <= cap
        assert pace.in_flight == sum(len(call) for call in running)
    for call in running:
        pace.settled(call.types[0], len(call))
    assert pace.in_flight == 0
    assert all(pace.room(kind) >= 1 for kind in "tu"), "an idle type always has room"


def test_a_call_has_tasks_of_one_key_where_keys_run_together() -> None:
    windows = Windows(500, CAP)
    claimed = tasks(["t"] * 9 + ["u"] * 3)
    claimed.keys = {claim: "ab"[n % 2] for n, claim in enumerate(claimed.claims[:9])}
    calls = windows.calls(claimed)
    assert sorted(claim for _, call in calls for claim in call.claims) == sorted(claimed.claims)
    assert [len(set(call.keys.values())) for _, call in calls] == [1] * (len(calls) - 1) + [0]
    assert [stream for stream, call in calls if not call.keys] == ["u"]
    assert windows.window("t").in_flight == 9
