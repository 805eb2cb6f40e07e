"""Limits and weights of a file: set and removed with it, beside those set by hand; what operators close."""

from __future__ import annotations

from datetime import timedelta

import pytest

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import Closing, ClosureName, Limit, NewTask, Queue, TypePolicy
from tests.support.clock import START, set_clock

pytestmark = pytest.mark.anyio


async def test_a_file_sets_and_removes_its_own_limits_and_no_others(queue: Queue) -> None:
    mine = Limit(name="mine", kind="running", amount=1)
    api = Limit(name="api", kind="rate", amount=5, period_s=1)
    each = Limit(name="each", kind="running", by_key=True, amount=2, exceptions={"acme": 3})
    await queue.operator.set_limit(mine)
    await queue.operator.set_weight("own", 7)
    assert await queue.operator.declare([api, each], {"acme": 3}) == ["api", "each", "weights"]
    assert await queue.operator.declare([api, each], {"acme": 3}) == []
    assert await queue.operator.declare(None, None) == []
    await queue.operator.set_limit(api.model_copy(update={"amount": 9}))
    declared = {limit.name: (limit.declared, limit.amount) for limit in await queue.operator.limits()}
    assert declared == {"api": (True, 9), "each": (True, 2), "mine": (False, 1)}
    assert await queue.operator.declare([api], {}) == ["api", "each", "weights"]
    assert [(limit.name, limit.amount) for limit in await queue.operator.limits()] == [
        ("api", 5),
        ("mine", 1),
    ]
    assert await queue.operator.weights() == {"own": 7}
    await queue.operator.set_weight("own", 1)
    assert await queue.operator.weights() == {}


async def test_a_file_sets_and_removes_its_own_policies_and_no_others(queue: Queue) -> None:
    mine = TypePolicy(type="mine", max_attempts=2)
    warm = TypePolicy(type="warm", affinity_s=20, affinity_keys=6)
    late = TypePolicy(type="late", aging_s=60, earliest_deadline=True)
    await queue.operator.set_policy(mine)
    assert await queue.operator.declare(None, None, [warm, late]) == ["warm", "late"]
    assert await queue.operator.declare(None, None, [warm, late]) == []
    assert await queue.operator.policies() == [late, mine, warm]
    await queue.operator.set_policy(warm.model_copy(update={"affinity_s": 5.0}))
    assert await queue.operator.declare(None, None, [warm]) == ["warm", "late"]
    usual = TypePolicy(type="late")
    assert await queue.operator.policies() == [usual, mine, warm]
    assert await queue.operator.declare(None, None, []) == ["warm"]
    assert await queue.operator.policies() == [usual, mine, TypePolicy(type="warm")]


async def test_what_an_operator_closes_is_not_claimed_until_it_opens(queue: Queue) -> None:
    await set_clock(queue, START)
    await queue.operator.set_limit(Limit(name="api", kind="running", amount=9))
    await queue.operator.set_limit(Limit(name="each", kind="running", by_key=True, amount=9))
    await queue.submit([NewTask(type="t", key=key) for key in ("a", "b")] + [NewTask(type="u")])
    until = START + timedelta(hours=1)
    for name in (
        ClosureName(kind="type", name="t", key="a"),
        ClosureName(kind="limit", name="each", key="b"),
        ClosureName(kind="limit", name="api"),
    ):
        closure = await queue.operator.close(Closing(**dict(name), until=until, reason="they mend it"))
        assert (closure.name, closure.key, closure.until) == (name.name, name.key, until)
    await queue.leases.register("lane")
    assert not await queue.claims.claim("lane", 9)
    assert await queue.operator.open(ClosureName(kind="limit", name="api"))
    assert not await queue.operator.open(ClosureName(kind="limit", name="api"))
    assert (await queue.claims.claim("lane", 9)).types == ["u"]
    assert await queue.operator.open(ClosureName(kind="limit", name="each", key="b"))
    assert len(await queue.claims.claim("lane", 9)) == 1
    [left] = await queue.operator.closures()
    assert (left.kind, left.name, left.key, left.reason) == ("type", "t", "a", "they mend it")
    for wrong in (ClosureName(kind="limit", name="none"), ClosureName(kind="limit", name="api", key="a")):
        with pytest.raises(ConfigurationError, match=f"there is no limit {wrong.name}"):
            await queue.operator.close(Closing(**dict(wrong), until=until))
