"""Random histories under limits of every kind: never above, never idle with work, all done in the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from organism_flows.blocks.queue import Batch, ClaimLines, Limit, NewTask, Queue
from tests.conftest import Databases
from tests.support.clock import START, set_clock
from tests.support.queue.helpers import outcomes_of
from tests.support.sql import edit_statements, pool_of

T = TypeVar("T")
EACH, TOGETHER = 2, 4
FEWER = {"c": 1}
BEGIN, PERIOD_S = 3, 10
SPEND, SPEND_PERIOD_S = 9, 60
LIMITS = (
    Limit(name="each", kind="running", by_key=True, amount=EACH, exceptions=FEWER),
    Limit(name="together", kind="running", amount=TOGETHER),
    Limit(name="begin", kind="rate", by_key=True, amount=BEGIN, period_s=PERIOD_S, burst=2),
    Limit(name="spend", kind="cost", amount=SPEND, period_s=SPEND_PERIOD_S),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc"), st.sampled_from([0, 0, 1, 4])),
        st.tuples(st.just("claim"), st.integers(0, 1), st.sampled_from([1, 9])),
        st.tuples(st.just("claim"), st.integers(0, 1), st.just(9)),
        st.tuples(st.just("settle"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("pass"), st.sampled_from([1, 3, PERIOD_S, SPEND_PERIOD_S]), st.just(0)),
    ),
    min_size=6,
    max_size=14,
)


class LimitedHistory:
    """One history of two lanes, and what limits make of it, counted apart from the queue."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.now = START
        self.waiting: dict[str, tuple[str, int]] = {}
        self.begun: list[tuple[datetime, str, int]] = []
        self.held: dict[str, tuple[int, str]] = {}
        """Lane and key of each task that runs."""
        self.batches: tuple[list[Batch], list[Batch]] = ([], [])

    async def run(self, steps: list[tuple[Any, Any, Any]]) -> None:
        await pool_of(self.queue).execute("DELETE FROM tasks; DELETE FROM lanes; DELETE FROM limits")
        await set_clock(self.queue, self.now)
        for limit in LIMITS:
            await self.queue.operator.set_limit(limit)
        self.lanes = []
        for number in range(2):
            await self.queue.leases.register(f"lane{number}")
            self.lanes.append(self.queue.claims.lines(f"lane{number}", clock=self.seconds))
        for name, one, other in [("add", "a", 0), ("add", "b", 1), *steps]:
            match name:
                case "add":
                    await self.add(one, other)
                case "claim":
                    await self.claim(self.lanes[one], one, other)
                case "settle":
                    await self.settle(one)
                case _:
                    await self.pass_time(one)
        for _ in range(len(self.waiting) * 2 + 2):
            if not self.waiting:
                break
            await self.settle(0)
            await self.settle(1)
            await self.pass_time(SPEND_PERIOD_S + 2)
            await self.claim(self.lanes[0], 0, 100)
        assert not self.waiting, "something waits for ever"

    def seconds(self) -> float:
        return (self.now - START).total_seconds()

    async def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        await set_clock(self.queue, self.now)

    async def add(self, key: str, cost: int) -> None:
        for task_id in await self.queue.submit([NewTask(type="t", key=key, cost=cost)] * 3):
            self.waiting[str(task_id)] = (key, cost)

    async def settle(self, lane: int) -> None:
        for batch in self.batches[lane]:
            await self.queue.claims.settle(f"lane{lane}", batch, outcomes_of(batch, "completed", result="1"))
            for task_id in batch.ids:
                del self.held[task_id]
        self.batches[lane].clear()

    async def claim(self, lines: ClaimLines, lane: int, limit: int) -> None:
        await lines.scan()
        taken = 0
        # A claim asks first the lines whose turn it is; the next one gives others what these leave.
        for _ in range(4):
            batch = await lines.claim(limit - taken, lambda _, room=limit - taken: room)  # type: ignore[misc]
            taken += len(batch)
            for task_id in batch.ids:
                key, cost = self.waiting.pop(task_id)
                self.held[task_id] = (lane, key)
                self.begun.append((self.now, key, cost))
            if batch:
                self.batches[lane].append(batch)
            if taken >= limit:
                break
        self.check_not_above()
        if taken < limit:
            self.check_not_idle()

    def within(self, seconds: float) -> list[tuple[datetime, str, int]]:
        return [each for each in self.begun if (self.now - each[0]).total_seconds() < seconds]

    def check_not_above(self) -> None:
        running = Counter(key for _, key in self.held.values())
        assert all(running[key] <= FEWER.get(key, EACH) for key in running)
        assert running.total() <= TOGETHER
        begun = Counter(key for _, key, _ in self.within(PERIOD_S))
        assert max(begun.values(), default=0) <= BEGIN
        assert sum(cost for *_, cost in self.within(SPEND_PERIOD_S)) <= SPEND

    def check_not_idle(self) -> None:
        running = Counter(key for _, key in self.held.values())
        # What was spent counts for a sixtieth of the period longer.
        left = SPEND - sum(cost for *_, cost in self.within(SPEND_PERIOD_S * 61 / 60 + 1))
        lately = {key for _, key, _ in self.within(PERIOD_S)}
        for key, cost in self.waiting.values():
            first = next(cost for other, cost in self.waiting.values() if other == key)
            blocked = running[key] >= FEWER.get(key, EACH) or running.total() >= TOGETHER or key in lately
            assert blocked or max(first, cost) > left, f"a task of {key} waits, and there is room for it"


@pytest.fixture(scope="module")
def dsn(databases: Databases) -> str:
    return asyncio.run(databases.create())


def histories(dsn: str, **options: Any) -> None:
    """Run random histories; raises what the first wrong one raised."""
    with asyncio.Runner() as runner:
        queue = Queue(dsn, lease_s=1e6, connections=1)

        def wait(awaitable: Awaitable[T]) -> T:
            return runner.get_loop().run_until_complete(awaitable)

        wait(queue.__aenter__())

        @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), **options)
        @given(steps=STEPS)
        def each(steps: list[tuple[Any, Any, Any]]) -> None:
            wait(LimitedHistory(queue).run(steps))

        try:
            each()
        finally:
            wait(queue.close())


def test_limits_hold_and_leave_no_room_unused(dsn: str) -> None:
    histories(dsn, max_examples=10)


BROKEN = {
    "what runs is not counted": ("limit_held", "status = 'running'", "false"),
    "what other keys run is counted": ("limit_held", "coalesce(key, '')", "'a'::text"),
    "amounts of single keys are ignored": (
        "limit_odd",
        "FROM limit_exceptions WHERE",
        "FROM limit_exceptions WHERE false AND",
    ),
    "rates are not written": ("limit_spend", "left_over.level, :now", "9, :now"),
    "what begins is not charged": ("limit_charge", "charge.units\nFROM", "0\nFROM"),
    "what was spent counts for ever": (
        "limit_room",
        "- make_interval(secs => asked.period_s * 61 / 60)\n)",
        "- interval '9 days'\n)",
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_limit_is_noticed(dsn: str, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    name, right, wrong = BROKEN[how]
    edit_statements(monkeypatch, {name}, right, wrong)
    with pytest.raises(AssertionError):
        histories(dsn, max_examples=300, phases=[Phase.generate])
