"""Turns of keys: few begin within a time, each waits for a bounded time, and free places are used."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from organism_flows.blocks.queue.stores.claiming.key_turns import KeyTurns
from organism_flows.blocks.queue.stores.claiming.line_shares import ClaimLine, ClaimOrder

STEP_S = 0.25
AFFINITY_S = 5.0
SECONDS = 120.0


class Lane:
    """Claims from lines of keys, by a clock of its own.

    Args:
        places: Keys at a time.
        room: Most tasks that are claimed in a step.
    """

    def __init__(self, places: int, room: int) -> None:
        self.order = ClaimOrder(affinity_s=AFFINITY_S, affinity_keys=places)
        self.room = room
        self.now = 0.0
        self.turns = KeyTurns(lambda: self.now)
        self.waiting: dict[str, list[float]] = {}
        """When the tasks of each key became due."""
        self.open: set[str] = set()
        self.begun: Counter[str] = Counter()
        """Turns of each key."""
        self.waited: dict[str, float] = {}
        """Longest time that a task of each key waited."""

    def step(self) -> None:
        lines = [
            ClaimLine("t", 0, key=key, due_s=due[0] - self.now, order=self.order)
            for key, due in self.waiting.items()
            if due
        ]
        chosen = self.turns.open(lines, 0.0)
        assert all(line.held for line in lines if line not in chosen)
        keys = {line.key for line in chosen}
        self.begun.update(keys - self.open)
        share = max(self.room // max(len(chosen), 1), 1)
        for line in sorted(chosen, key=lambda line: line.due_s):
            due = self.waiting[line.key]
            taken = due[:share]
            del due[:share]
            self.waited[line.key] = max(self.waited.get(line.key, 0.0), self.now - taken[0])
        self.open = {key for key in (self.open | keys) if self.turns.keeps(ClaimLine("t", 0, key=key))}
        assert len(self.open) <= self.order.affinity_keys
        self.now += STEP_S


arrivals = st.lists(st.tuples(st.floats(0, SECONDS), st.integers(0, 11)), min_size=1, max_size=300)


@given(arrivals=arrivals, places=st.integers(1, 4))
@example(arrivals=[(second / 4, second % 12) for second in range(400)], places=2)
def test_each_key_begins_rarely_and_waits_for_a_bounded_time(
    arrivals: list[tuple[float, int]], places: int
) -> None:
    lane = Lane(places, room=10_000)
    coming = sorted(arrivals)
    while coming or any(lane.waiting.values()):
        while coming and coming[0][0] <= lane.now:
            due, key = coming.pop(0)
            lane.waiting.setdefault(f"k{key}", []).append(due)
        lane.step()
        assert lane.now < 10 * SECONDS, "some key never has its turn"
    keys = len(lane.waiting)
    # Each has waited for `AFFINITY_S` first, or had a place that was free.
    assert max(lane.waited.values()) <= AFFINITY_S + (keys / places + 2) * STEP_S
    assert max(lane.begun.values()) <= lane.now / AFFINITY_S + 2


@pytest.mark.parametrize("places", [1, 3])
def test_keys_with_endless_backlogs_take_turns(places: int) -> None:
    lane = Lane(places, room=20)
    # The oldest tasks are all of one key.
    lane.waiting = {f"k{key}": [-1000.0 if key == 0 else -10.0] * 5000 for key in range(9)}
    shares = [len(tasks) for tasks in lane.waiting.values()]
    for _ in range(int(9 * 4 * AFFINITY_S / STEP_S)):
        lane.step()
    shares = [before - len(lane.waiting[f"k{key}"]) for key, before in enumerate(shares)]
    assert min(shares) > 0.5 * max(shares)
    assert max(lane.begun.values()) - min(lane.begun.values()) <= 1
    turns = sum(lane.begun.values())
    assert turns <= places * (lane.now / AFFINITY_S + 1), "each turn lasts"


def test_as_many_keys_as_there_are_places_never_wait() -> None:
    lane = Lane(3, room=100)
    for second in range(30):
        lane.waiting = {f"k{key}": [float(second)] for key in range(3)}
        lane.now = float(second)
        lane.step()
        assert not any(lane.waiting.values())
    assert set(lane.begun.values()) == {1}
    assert lane.turns.next_s == float("inf")


def test_a_key_without_work_gives_its_place_to_one_that_has_waited() -> None:
    lane = Lane(1, room=100)
    lane.waiting = {"a": [0.0]}
    lane.step()
    lane.waiting = {"b": [1.0]}
    lane.now = 1.0
    lane.step()
    assert lane.waiting == {"b": [1.0]}, "a may still be of use"
    assert 0 < lane.turns.next_s <= AFFINITY_S
    lane.now = AFFINITY_S
    lane.step()
    assert lane.waiting == {"b": []}


def test_other_types_and_tasks_without_a_key_are_no_part_of_it() -> None:
    turns = KeyTurns(lambda: 0.0)
    order = ClaimOrder(affinity_s=5.0, affinity_keys=1)
    lines = [
        ClaimLine("t", 0, key="a", order=order),
        ClaimLine("t", 1, key="b", order=order),
        ClaimLine("t", 0, order=order),
        ClaimLine("u", 0, key="a"),
        ClaimLine("u", 0, key="b"),
    ]
    assert [line.id for line in turns.open(lines, 0.0)] == [
        ("t", 1, "", "b"),
        ("t", 0, "", ""),
        ("u", 0, "", "a"),
        ("u", 0, "", "b"),
    ]
