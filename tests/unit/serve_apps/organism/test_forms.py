"""What a handler may ask for by the names of its parameters: typed params, and the context of its call."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.organism import misbehaviour
from tests.support.organism.held_timeouts import HeldTimeouts
from tests.support.organism.helpers import batch, cancel_claims, organ, organism, run
from tests.support.stack import until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("handler", "params", "expected"),
    [
        ("typed", {"name": "you", "times": 2}, "hello youhello you"),
        ("typed", {"name": "you", "times": "2"}, "hello youhello you"),
        ("typed_with_task", {"name": "you"}, ["task-0", "you"]),
        ("typed_first", {"name": "you"}, ["task-0", "you"]),
        ("typed_by_dict", {"a": 1, "b": 2}, 3),
        ("untyped", {"a": [1]}, {"a": [1]}),
        ("Typed", {"name": "you"}, ["you", 1]),
    ],
)
async def test_params_come_as_the_handler_declares_them(handler: str, params: Any, expected: Any) -> None:
    result = await run(organism(organ("h", handler)), batch(("h", params)))
    assert result.errors[0] is None
    assert result.results[0] == expected


@pytest.mark.parametrize(
    ("handler", "params", "words"),
    [
        ("typed", {}, ["params.name: Field required"]),
        (
            "typed",
            {"name": 3, "times": 9},
            ["params.name:", "got 3;", "params.times:", "less than or equal to 3"],
        ),
        ("typed_with_task", {"name": None}, ["params.name:", "got None"]),
        ("typed_by_dict", dict.fromkeys("abcdefgh", "x"), ["params.a:", "; and 3 more"]),
    ],
)
async def test_other_params_are_a_permanent_error_that_names_the_fields(
    handler: str, params: Any, words: list[str]
) -> None:
    manager = organism(organ("h", handler))
    result = await run(manager, batch(("h", params), ("echo", {"n": 1})))
    assert result.causes == {0: "rejected", 1: "completed"}
    for word in words:
        assert word in (result.errors[0] or "")
    assert "\n" not in (result.errors[0] or "")


async def test_the_context_tells_of_the_call(caplog: pytest.LogCaptureFixture) -> None:
    manager = organism(organ("c", "with_context"))
    with caplog.at_level(logging.INFO):
        result = await run(manager, batch(("c", {}, 20.0)))
    found = result.results[0]
    assert found["same"] == [True, True]
    assert found["cancelled"] is False
    assert 15 < found["left"] <= 20
    assert "task task-0 claim 100: at work" in caplog.text


async def test_progress_is_shown_in_the_status() -> None:
    manager = organism(organ("c", "with_context"))
    async with anyio.create_task_group() as group:
        group.start_soon(run, manager, batch(("c", {"name": "a"})))
        await misbehaviour.ARRIVALS.get()
        await anyio.lowlevel.checkpoint()
        [longest] = await until(lambda: manager.status()["organs"]["c"]["longest"])
        assert (longest["task_id"], longest["progress"], longest["note"]) == ("task-0", 0.5, "half of it")
        misbehaviour.ALLOWED["a"].set()
    assert manager.status()["organs"]["c"]["longest"] == []


async def test_a_plain_function_sees_that_it_is_cancelled_and_that_it_timed_out(
    timeouts: HeldTimeouts,
) -> None:
    manager = organism(organ("l", "look_for_cancellation"))

    async def cancel() -> None:
        await until(lambda: misbehaviour.STARTED["looking"] == 2)
        assert cancel_claims(manager, 100) == [100]
        timeouts.lapse("l")

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        result = await run(manager, batch(("l", {}), ("l", {})))
    assert result.causes == {0: "cancelled", 1: "timed_out"}
    await until(lambda: misbehaviour.ENDED["looking"] == 2)
    await until(lambda: manager.status()["totals"]["abandoned"] == 0)
