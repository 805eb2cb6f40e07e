"""Async handlers that return without having waited follow one another in one asyncio task; none notices."""

from __future__ import annotations

import asyncio
import gc
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import organism_flows.serve_apps.organism.execution.local.local_organ
from benchmarks import per_task
from organism_flows.serve_apps.organism.execution.outcome_stream import BatchCall
from tests.support.organism import misbehaviour
from tests.support.organism.helpers import batch, in_flight, organ, organism, run
from tests.support.stack import until

pytestmark = pytest.mark.anyio

ENDINGS = {
    "return": "completed",
    "wait": "completed",
    "wait long": "completed",
    "raise": "failed",
    "raise later": "failed",
    "hang": "timed_out",
    "cancel itself": "completed",
    "time out by itself": "failed",
}


@given(
    st.lists(st.tuples(st.sampled_from(sorted(ENDINGS)), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
async def test_each_ends_as_it_would_alone(kinds: list[tuple[str, bool]], concurrency: int) -> None:
    manager = organism(organ("turn", "turn", concurrency=concurrency))
    rows = [("turn", {"how": how, "mark": mark}, 0.05 if how == "hang" else 30.0) for how, mark in kinds]
    result = await run(manager, batch(*rows))
    for position, (how, _) in enumerate(kinds):
        assert result.causes[position] == ENDINGS[how], how
        if result.causes[position] == "completed":
            assert result.results[position] == "fresh", "what another handler left in its context was seen"
    assert in_flight(manager) == 0
    figures = manager.status()["organs"]["turn"]
    assert (figures["waiting"], figures["abandoned"]) == (0, 0)


async def test_those_that_do_not_wait_share_a_task_and_the_others_have_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine cuts stretches short, and so makes more of them.
    monkeypatch.setattr(organism_flows.serve_apps.organism.execution.local.local_organ, "STRETCH_S", math.inf)
    manager = organism(organ("turn", "turn", concurrency=100))
    await run(manager, batch(*[("turn", {"how": "return"})] * 200))
    assert len(misbehaviour.RUNNERS) == 200
    assert len(set(misbehaviour.RUNNERS)) <= 20
    misbehaviour.RUNNERS.clear()
    await run(manager, batch(*[("turn", {"how": "wait long"})] * 50))
    assert len(set(misbehaviour.RUNNERS)) == 50, "all at once, each in a task of its own"


async def test_the_loop_has_its_turn_between_handlers_that_compute() -> None:
    manager = organism(organ("block", "block_the_loop", concurrency=100))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    turns = 0
    await run(manager, batch(*[("block", {"seconds": 0.002})] * 100))
    counting.cancel()
    assert turns >= 4, "200 ms of computing in stretches of 5 ms, 8 of them at most between two turns"


@pytest.mark.parametrize("handler", sorted(per_task.ORGANS))
async def test_nothing_of_a_call_waits_for_the_garbage_collector(handler: str) -> None:
    def living() -> list[BatchCall]:
        calls = [one for one in gc.get_objects() if type(one) is BatchCall]
        return [call for call in calls if handler in call.batch.types]  # not those of other tests

    manager = per_task.organism()
    gc.disable()
    try:
        await run(manager, batch(*[(handler, {})] * 20))
        # A thread lets go of its last call a moment later.
        await until(lambda: not living())
    finally:
        gc.enable()
