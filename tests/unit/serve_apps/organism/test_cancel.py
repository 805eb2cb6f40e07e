"""Cancelling single tasks of a batch: each is reported at once, and its neighbours go on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from organism_flows.blocks.queue.wire import Outcomes
from organism_flows.serve_apps.organism.execution import outcome_stream
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism import misbehaviour
from tests.support.organism.helpers import (
    Result,
    batch,
    cancel_claims,
    in_flight,
    organ,
    organism,
    run,
    suspected,
)

pytestmark = pytest.mark.anyio


async def meanwhile(
    manager: OrganismManager, wire: dict[str, Any], act: Callable[[], Coroutine[Any, Any, None]], **how: Any
) -> Result:
    """Run a batch to its end, and ``act`` beside it."""
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(act)
            result = await run(manager, wire, **how)
    return result


async def test_a_running_async_handler_is_cancelled_and_may_clean_up() -> None:
    manager = organism(organ("s", "step"))

    async def cancel() -> None:
        assert {await misbehaviour.ARRIVALS.get() for _ in range(2)} == {"a", "b"}
        assert cancel_claims(manager, 100, 999) == [100]
        assert misbehaviour.ENDED == {}, "reported before the handler has ended"
        while in_flight(manager) > 1:
            await anyio.lowlevel.checkpoint()
        assert misbehaviour.ENDED == {"a": 1}
        misbehaviour.ALLOWED["b"].set()

    result = await meanwhile(manager, batch(("s", {"name": "a"}), ("s", {"name": "b"}), ("echo", {})), cancel)
    assert result.causes == {0: "cancelled", 1: "completed", 2: "completed"}
    assert result.errors[0] == "cancelled while it ran"
    assert manager.status()["totals"]["cancelled"] == 1
    assert cancel_claims(manager, 100) == [], "the call has ended"


async def test_a_waiting_task_never_starts() -> None:
    manager = organism(organ("s", "step", concurrency=1))

    async def cancel() -> None:
        assert await misbehaviour.ARRIVALS.get() == "a"
        assert cancel_claims(manager, 101) == [101]
        misbehaviour.ALLOWED["a"].set()
        assert await misbehaviour.ARRIVALS.get() == "c"
        misbehaviour.ALLOWED["c"].set()

    result = await meanwhile(manager, batch(*[("s", {"name": name}) for name in "abc"]), cancel)
    assert result.causes == {0: "completed", 1: "cancelled", 2: "completed"}
    assert result.errors[1] == "cancelled before it started"
    assert misbehaviour.STARTED == {"a": 1, "c": 1}


async def test_a_plain_function_is_left_behind_and_counted() -> None:
    manager = organism(organ("hang", "block", concurrency=1))

    async def cancel() -> None:
        while not misbehaviour.STARTED["block"]:
            await anyio.lowlevel.checkpoint()
        assert cancel_claims(manager, 100) == [100]
        assert manager.status()["organs"]["hang"]["abandoned"] == 1

    assert (await meanwhile(manager, batch(("hang", {})), cancel)).causes == {0: "cancelled"}
    assert in_flight(manager) == 0, "its slot is free"
    misbehaviour.RELEASE.set()
    while manager.status()["organs"]["hang"]["abandoned"]:
        await anyio.lowlevel.checkpoint()


async def test_a_handler_that_ignores_cancellation_does_not_keep_its_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("organism_flows.serve_apps.organism.execution.local.local_organ.LINGER_S", 0.02)
    manager = organism(organ("stubborn", "stubborn", concurrency=1))

    async def cancel() -> None:
        while not misbehaviour.STARTED["stubborn"]:
            await anyio.lowlevel.checkpoint()
        cancel_claims(manager, 100)
        while not manager.status()["organs"]["stubborn"]["abandoned"]:
            await anyio.lowlevel.checkpoint()
        assert in_flight(manager) == 0

    assert (await meanwhile(manager, batch(("stubborn", {})), cancel)).causes == {0: "cancelled"}
    misbehaviour.RELEASE.set()
    while manager.status()["organs"]["stubborn"]["abandoned"]:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("all_of_it", [False, True])
async def test_a_handler_batch_goes_on_while_somebody_wants_it(all_of_it: bool) -> None:
    manager = organism(organ("b", "batch_that_steps", batch=True))

    async def cancel() -> None:
        assert await misbehaviour.ARRIVALS.get() == "batch"
        assert cancel_claims(manager, 100, 102) == [100, 102]
        assert in_flight(manager) == 3
        if all_of_it:
            assert cancel_claims(manager, 101) == [101]
        else:
            misbehaviour.ALLOWED["batch"].set()

    result = await meanwhile(manager, batch(("b", {}), ("b", {}), ("b", {})), cancel)
    assert [result.causes[n] for n in (0, 2)] == ["cancelled"] * 2
    assert result.causes[1] == ("cancelled" if all_of_it else "completed")
    while in_flight(manager):
        await anyio.lowlevel.checkpoint()
    assert misbehaviour.ENDED == {"batch": 1}


async def test_a_cancelled_task_of_a_failing_handler_batch_is_not_tried_alone() -> None:
    manager = organism(organ("b", "batch_that_steps", batch=True, timeout_s=0.1))

    async def cancel() -> None:
        assert await misbehaviour.ARRIVALS.get() == "batch"
        cancel_claims(manager, 100)
        assert await misbehaviour.ARRIVALS.get() == "batch"
        misbehaviour.ALLOWED["batch"].set()

    result = await meanwhile(manager, batch(("b", {}), ("b", {})), cancel)
    assert result.causes == {0: "cancelled", 1: "completed"}
    assert misbehaviour.STARTED == {"batch": 2}


async def test_a_suspect_is_cancelled_between_the_word_that_it_begins_and_its_start() -> None:
    manager = organism(organ("s", "step", suspects="replica"))
    stream_ = manager.handle_tasks(suspected(batch(("s", {"name": "a"}))))
    assert Outcomes.from_wire(await anext(stream_)).begun == {0: None}
    assert cancel_claims(manager, 100) == [100]
    outcomes = Outcomes.from_wire(await anext(stream_))
    assert outcomes.causes == ["cancelled"]
    await anyio.sleep(0.1)
    assert misbehaviour.STARTED == {}
    assert in_flight(manager) == 0


async def test_the_first_word_says_the_longest_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome_stream, "SIGN_OF_LIFE_S", 0.01)
    manager = organism(organ("s", "step", timeout_s=7), organ("t", "step"), default_timeout_s=50)

    async def longest(*rows: Any) -> float | None:
        stream_ = manager.handle_tasks(batch(*rows))
        first = Outcomes.from_wire(await anext(stream_))
        await stream_.aclose()
        return first.timeout_s

    assert await longest(("s", {"name": "a"})) == 7
    assert await longest(("s", {"name": "a"}), ("t", {"name": "a"})) == 50
    assert await longest(("s", {"name": "a"}), ("s", {"name": "a"}, 60.0)) == 60
    assert await longest(("nope", {}), ("s", {}, -1.0)) is None
