"""Shares of lines: by weight, whatever the room of each claim, and none of it unused."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis import example, given

from organism_flows.blocks.queue.stores.line_shares import ClaimLine, LineShares


def shared(lines: list[ClaimLine], rooms: list[int]) -> Counter[str]:
    """Return what each key gets of claims with these rooms, of lines that never end."""
    shares = LineShares()
    taken: Counter[str] = Counter()
    for room in rooms:
        wanted = shares.of_claim(lines, room, lambda _, room=room: room, lambda kind, _: kind)  # type: ignore[misc]
        assert sum(quota for _, quota in wanted) == room, "some room stays unused"
        assert all(quota > 0 for _, quota in wanted)
        taken.update({line.key: quota for line, quota in wanted})
    return taken


@given(
    weights=st.lists(st.sampled_from([1, 1, 1, 2, 3, 10]), min_size=2, max_size=60),
    rooms=st.lists(st.integers(1, 40), min_size=20, max_size=60),
)
@example(weights=[1, 3], rooms=[1] * 40)
@example(weights=[10, 1, 1], rooms=[7] * 40)
def test_each_key_gets_its_part_whatever_the_room_of_a_claim(weights: list[int], rooms: list[int]) -> None:
    lines = [ClaimLine("t", 0, key=f"{n:02}", weight=weight) for n, weight in enumerate(weights)]
    taken = shared(lines, rooms)
    for line in lines:
        fair = sum(rooms) * line.weight / sum(weights)
        assert abs(taken[line.key] - fair) <= line.weight, "more or less than one turn"


@given(room=st.integers(3, 60), limit=st.integers(1, 3))
def test_no_key_gets_all_of_a_claim_that_is_smaller_than_the_room(room: int, limit: int) -> None:
    lines = [ClaimLine("t", 0, key=key) for key in "abc"]
    shares = LineShares()
    taken: Counter[str] = Counter()
    for _ in range(12):
        left = limit
        # As claim.sql: in this order, until the claim is full.
        for line, quota in shares.of_claim(lines, limit, lambda _: room, lambda kind, _: kind):
            taken[line.key] += min(quota, left)
            left -= min(quota, left)
    assert max(taken.values()) - min(taken[key] for key in "abc") <= 1


def test_a_line_that_holds_nothing_leaves_its_part_to_the_others() -> None:
    lines = [
        ClaimLine("t", 0, key="heavy", weight=100, due_s=60),
        ClaimLine("t", 0, key="a"),
        ClaimLine("t", 0, key="b"),
    ]
    taken = shared(lines, [10] * 10)
    assert taken["heavy"] <= 10, "one task each claim, to find out whether it holds some again"
    assert abs(taken["a"] - taken["b"]) <= 1


def test_a_line_known_for_its_age_has_no_turn_among_lines_that_are_due() -> None:
    lines = [ClaimLine("t", 0, key=f"k{n:02}") for n in range(8)]
    old = ClaimLine("t", 0, key="old", extra=True)
    assert shared([*lines, old], [16] * 10)["old"] == 0
    for line in lines:
        line.due_s = 60
    assert shared([*lines, old], [16] * 10)["old"] >= 100
