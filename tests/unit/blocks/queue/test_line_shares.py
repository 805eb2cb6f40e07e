"""Shares of lines: by weight, whatever the room of each claim, and none of it unused."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis import example, given

from organism_flows.blocks.queue.stores.claiming.line_shares import (
    PLAIN,
    ClaimLine,
    ClaimOrder,
    LineShares,
    by_rank,
    by_type,
)


def shared(lines: list[ClaimLine], rooms: list[int]) -> Counter[str]:
    """Return what each key gets of claims with these rooms, of lines that never end."""
    shares = LineShares()
    taken: Counter[str] = Counter()
    for room in rooms:
        wanted = shares.of_claim(lines, room, lambda _, room=room: room, by_type)  # type: ignore[misc]
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


@given(
    weights=st.lists(st.sampled_from([1, 1, 1, 2, 3, 10]), min_size=2, max_size=60),
    allowed=st.lists(st.integers(0, 40), min_size=20, max_size=60),
)
@example(weights=[1, 3], allowed=[1] * 40)
@example(weights=[10, 1, 1], allowed=[0, 7] * 20)
def test_each_key_gets_its_part_of_what_a_limit_leaves(weights: list[int], allowed: list[int]) -> None:
    lines = [ClaimLine("t", 0, key=f"{n:02}", weight=weight) for n, weight in enumerate(weights)]
    shares = LineShares()
    taken: Counter[str] = Counter()
    for most in allowed:
        wanted = shares.of_claim(lines, 1000, lambda _: 1000, by_type)
        left = [most]

        def take(_: ClaimLine, left: list[int] = left) -> bool:
            left[0] -= 1
            return left[0] >= 0

        granted = shares.within(wanted, take)
        assert sum(granted.values()) == most
        taken.update({line.key: granted[line.id] for line in lines})
    for line in lines:
        fair = sum(allowed) * line.weight / sum(weights)
        assert abs(taken[line.key] - fair) <= line.weight, "more or less than one turn"


def test_a_turn_is_no_longer_than_a_weight_that_was_lowered_meanwhile() -> None:
    lines = [ClaimLine("t", 0, key="a", weight=9), ClaimLine("t", 0, key="b")]
    shares = LineShares()
    [(first, _)] = shares.of_claim(lines, 1, lambda _: 1, by_type)
    lines[0].weight = 2
    turns = [shares.of_claim(lines, 1, lambda _: 1, by_type)[0][0].key for _ in range(6)]
    assert (first.key, turns) == ("a", ["a", "a", "b", "a", "a", "b"])


@given(room=st.integers(3, 60), limit=st.integers(1, 3))
def test_no_key_gets_all_of_a_claim_that_is_smaller_than_the_room(room: int, limit: int) -> None:
    lines = [ClaimLine("t", 0, key=key) for key in "abc"]
    shares = LineShares()
    taken: Counter[str] = Counter()
    for _ in range(12):
        left = limit
        # As claim.sql: in this order, until the claim is full.
        for line, quota in shares.of_claim(lines, limit, lambda _: room, by_type):
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


@given(
    gap=st.integers(1, 6),
    aging_s=st.sampled_from([1.0, 7.5, 60.0]),
    rooms=st.lists(st.integers(1, 30), min_size=400, max_size=400),
    both=st.booleans(),
)
def test_a_low_priority_waits_no_longer_than_its_distance(
    gap: int, aging_s: float, rooms: list[int], both: bool
) -> None:
    """The higher priority always has more than the claims have room for."""
    shares = LineShares()
    order = ClaimOrder(aging_s=aging_s)
    high = ClaimLine("t", gap, key="h", order=order if both else PLAIN)
    low = ClaimLine("t", 0, key="l", order=order)
    step_s = aging_s / 10
    since = now = longest = 0.0
    for room in rooms:
        high.due_s, low.due_s = 0.0, since - now  # as a scan finds them
        wanted = shares.of_claim(
            by_rank([low, high]),
            room,
            lambda _, room=room: room,  # type: ignore[misc]
            by_type,
        )
        # A claim of one stream takes what it has room for, from the highest rank on.
        left = room
        for line, quota in wanted:
            if line is low and left > 0:
                longest, since = max(longest, now - since), now
            left -= quota
        now += step_s
    assert longest > 0, "it has had its turn"
    assert max(longest, now - since) <= (gap + 1) * aging_s + 2 * step_s


def test_waiting_raises_a_priority_and_no_key_above_the_others_of_it() -> None:
    order = ClaimOrder(aging_s=10.0)
    lines = [
        ClaimLine("t", 5, key="new", order=order),
        ClaimLine("t", 2, key="old", due_s=-35.0, order=order),
        ClaimLine("t", 2, key="young", due_s=-1.0, order=order),
        ClaimLine("t", 0, key="limited", due_s=-990.0, order=order, was_limited=True),
        ClaimLine("t", 1, key="later", due_s=500.0, order=order),
        ClaimLine("u", 3, due_s=-1e12),
        ClaimLine("v", 0, due_s=-1e300, order=ClaimOrder(aging_s=1e-9)),
    ]
    ranks = {line.key or line.type: line.rank for line in by_rank(lines)}
    assert ranks == {"v": 2**32, "old": 5, "young": 5, "new": 5, "u": 3, "later": 1, "limited": 0}
    for line in lines:
        line.order = PLAIN
    assert all(line.rank == line.priority for line in by_rank(lines)), "the policy is gone"
