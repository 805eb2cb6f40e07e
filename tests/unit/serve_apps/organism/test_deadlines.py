"""One timer for many deadlines, and a clock that a blocked event loop does not wind on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import pytest

from organism_flows.serve_apps.organism.execution.local.local_organ import LocalOrgan
from organism_flows.serve_apps.organism.execution.local.timeouts import Timeouts
from tests.support.organism import misbehaviour
from tests.support.organism.helpers import batch, organ, organism, run

pytestmark = pytest.mark.anyio


async def test_items_come_due_in_the_order_of_their_deadlines() -> None:
    late: asyncio.Queue[str] = asyncio.Queue()
    deadlines = Timeouts(late.put_nowait)
    now = time.monotonic()
    for name, timeout_s in (("c", 0.06), ("never", 30.0), ("a", 0.02), ("gone", 0.03), ("b", 0.04)):
        deadlines.add(name, timeout_s, now)
    deadlines.discard("gone", 0.03)
    deadlines.discard("gone", 0.03)
    with anyio.fail_after(5):
        assert [await late.get() for _ in range(3)] == ["a", "b", "c"]
    assert time.monotonic() - now >= 0.06
    deadlines.discard("never", 30.0)
    assert late.empty()


async def test_a_callback_may_discard_and_add() -> None:
    late: asyncio.Queue[str] = asyncio.Queue()

    def on_due(name: str) -> None:
        late.put_nowait(name)
        if name == "first":
            deadlines.discard("neighbour", 0.01)
            deadlines.add("next", 0.01, time.monotonic())

    deadlines: Timeouts[str] = Timeouts(on_due)
    now = time.monotonic()
    deadlines.add("first", 0.01, now)
    deadlines.add("neighbour", 0.01, now)
    with anyio.fail_after(5):
        assert [await late.get() for _ in range(2)] == ["first", "next"]


async def test_nothing_is_kept_of_what_has_ended() -> None:
    manager = organism(organ("s", "seen"))
    await run(manager, batch(*[("s", {}, 10.0 + n) for n in range(300)]))
    assert manager._assemblies.current is not None
    served = manager._assemblies.current.organs["s"]
    assert isinstance(served, LocalOrgan)
    assert not served._deadlines._due


async def test_a_handler_that_blocks_the_loop_does_not_time_its_neighbours_out() -> None:
    manager = organism(organ("s", "step", timeout_s=0.4), organ("blocks", "block_the_loop"))

    async def let_go() -> None:
        for _ in range(2):
            await misbehaviour.ARRIVALS.get()
        for event in misbehaviour.ALLOWED.values():
            event.set()

    rows: list[Any] = [("s", {"name": "a"}), ("blocks", {"seconds": 1.2}), ("s", {"name": "b"})]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(let_go)
            result = await run(manager, batch(*rows))
    assert set(result.causes.values()) == {"completed"}
    slow = await run(manager, batch(("s", {"name": "slow"}), ("blocks", {"seconds": 0.3})))
    assert slow.causes == {0: "timed_out", 1: "completed"}
