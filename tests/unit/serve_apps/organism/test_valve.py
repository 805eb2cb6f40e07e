"""The drift valve against a reference of its rule, and as replicas share it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from organism_flows.blocks.queue import Batch
from organism_flows.serve_apps.organism.config import Cusum, Escalation
from organism_flows.serve_apps.organism.escalation import drift as drift_module
from organism_flows.serve_apps.organism.escalation.cusum import CEILING, KEPT, DriftValve
from organism_flows.serve_apps.organism.escalation.drift import DriftMonitor
from tests.support.organism.helpers import batch

pytestmark = pytest.mark.anyio

RULE = Cusum(expected=0.2, slack=0.1, bound=1.0)
KEYS = st.tuples(st.sampled_from("tu"), st.sampled_from(["a", "b", None]))
SCORES = st.floats(0, 3, allow_nan=False)
OBSERVED = st.lists(st.tuples(KEYS, SCORES, st.booleans()), max_size=60)


def reference(rule: Cusum, observed: list[tuple[tuple[str, str | None], float, bool]]) -> list[float]:
    """The sum after each task, from Page's definition: the largest sum over the tasks up to it, capped."""
    sums = []
    for n, (key, _, _) in enumerate(observed):
        total = 0.0
        for other, score, counted in observed[: n + 1]:
            if other == key and counted:
                total = max(0.0, min(total + (score - (rule.expected + rule.slack)), CEILING * rule.bound))
        sums.append(total)
    return sums


def observe(
    valve: DriftValve, rule: Cusum, observed: list[tuple[tuple[str, str | None], float, bool]]
) -> list[float]:
    columns = list(zip(*observed, strict=True)) or [(), (), ()]
    return asyncio.run(valve.observe(rule, *columns))


@given(OBSERVED, st.integers(1, 7))
def test_sums_are_those_of_the_rule_however_tasks_come_in_batches(
    observed: list[tuple[tuple[str, str | None], float, bool]], size: int
) -> None:
    valve = DriftValve()
    sums = []
    for start in range(0, len(observed), size):
        sums += observe(valve, RULE, observed[start : start + size])
    assert sums == pytest.approx(reference(RULE, observed))


@given(st.lists(st.floats(0, RULE.expected + RULE.slack), max_size=200))
def test_without_drift_nothing_is_ever_escalated(scores: list[float]) -> None:
    sums = observe(DriftValve(), RULE, [(("t", None), score, True) for score in scores])
    assert max(sums, default=0.0) == 0.0


@given(st.lists(SCORES, min_size=1, max_size=60))
def test_an_escalation_ends_once_scores_are_good_again(scores: list[float]) -> None:
    valve = DriftValve()
    observe(valve, RULE, [(("t", None), score, True) for score in scores])
    good = int(CEILING * RULE.bound / (RULE.expected + RULE.slack)) + 1
    assert observe(valve, RULE, [(("t", None), 0.0, True)] * good)[-1] == 0.0


async def test_sums_are_set_back_by_type_and_domain() -> None:
    valve = DriftValve()
    keys = [("t", "a"), ("t", "b"), ("u", "a")]
    await valve.observe(RULE, keys, [1.0] * 3, [True] * 3)
    assert await valve.reset("t", "a") == 1
    assert [(s["type"], s["domain"]) for s in await valve.sums()] == [("t", "b"), ("u", "a")]
    assert await valve.reset("t") == 1
    assert await valve.reset() == 1
    assert await valve.sums() == []


async def test_it_keeps_no_more_sums_than_it_may() -> None:
    valve = DriftValve()
    await valve.observe(
        RULE, [(f"t{n}", None) for n in range(KEPT + 5)], [1.0] * (KEPT + 5), [True] * (KEPT + 5)
    )
    assert len(valve._sums) == KEPT
    assert ("t0", None) not in valve._sums


def drifting(*scores: float, attempt: int = 1) -> Batch:
    made = Batch.from_wire(batch(*[("t", {})] * len(scores)))
    made.drift_scores = list(scores)
    made.attempts = [attempt] * len(scores)
    return made


async def test_replicas_that_share_a_valve_decide_as_one() -> None:
    rules = Escalation(cusum=RULE)
    valve = DriftValve()
    replicas = [DriftMonitor(valve), DriftMonitor(valve)]
    decided = [await replicas[n % 2].among(drifting(0.9), rules) for n in range(4)]
    assert [bool(found) for found in decided] == [False, True, True, True], "0.6, 1.2, 1.8, 2.0"


async def test_a_score_by_itself_may_be_too_much() -> None:
    rules = Escalation(drift_score=0.7)
    assert await DriftMonitor(DriftValve()).among(drifting(0.1, 0.7, 0.69), rules) == {1}


async def test_another_attempt_does_not_count_again() -> None:
    rules, drift = Escalation(cusum=RULE), DriftMonitor(DriftValve())
    assert not await drift.among(drifting(1.2), rules)
    for _ in range(5):
        assert not await drift.among(drifting(1.2, attempt=2), rules)
    assert await drift.among(drifting(1.2), rules)


class Broken(DriftValve):
    asked = 0

    async def observe(self, *_: object) -> list[float]:
        self.asked += 1
        raise RuntimeError("gone")


async def test_without_the_valve_tasks_go_by_their_own_scores_and_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = Escalation(drift_score=0.7, cusum=RULE)
    valve = Broken()
    drift = DriftMonitor(valve)
    for _ in range(3):
        assert await drift.among(drifting(0.6, 0.8), rules) == {1}
    assert valve.asked == 1, "it is left alone for a while"
    assert drift.status(rules)["valve_trouble"].startswith("RuntimeError: gone")
    monkeypatch.setattr(drift_module, "PAUSE_S", 0.0)
    drift = DriftMonitor(valve)
    await drift.among(drifting(0.6), rules)
    drift.valve = DriftValve()
    await drift.among(drifting(0.6), rules)
    assert drift.status(rules)["valve_trouble"] is None
