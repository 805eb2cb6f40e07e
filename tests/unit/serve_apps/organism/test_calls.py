"""Calls: chunks, signs of life, cancellation, and calls that have the replica to themselves."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from organism_flows.serve_apps.organism.execution import outcome_stream
from tests.support.organism import misbehaviour
from tests.support.organism.helpers import Result, batch, in_flight, organ, organism, run, suspected

pytestmark = pytest.mark.anyio


async def test_an_organ_runs_no_more_than_its_concurrency() -> None:
    manager = organism(organ("s", "step", concurrency=2))
    for name in "abcd":
        misbehaviour.ALLOWED[name] = asyncio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(run, manager, batch(*[("s", {"name": name}) for name in "abcd"]))
        assert {await misbehaviour.ARRIVALS.get() for _ in range(2)} == {"a", "b"}
        assert in_flight(manager) == 2
        assert manager.status()["organs"]["s"]["waiting"] == 2
        misbehaviour.ALLOWED["b"].set()
        assert await misbehaviour.ARRIVALS.get() == "c"
        for name in "acd":
            misbehaviour.ALLOWED[name].set()


async def test_outcomes_come_as_they_end_and_in_chunks() -> None:
    manager = organism(organ("s", "step"))

    def release(result: Result) -> None:
        if len(result.causes) == 600:
            misbehaviour.ALLOWED["last"].set()

    rows = [("s", {"name": "last"}), *[("echo", {"n": n}) for n in range(600)]]
    result = await run(manager, batch(*rows), on_chunk=release)
    assert result.order[-1] == 0
    assert max(result.chunks) <= outcome_stream.CHUNK
    assert len(result.chunks) <= 5


async def test_an_empty_chunk_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome_stream, "SIGN_OF_LIFE_S", 0.01)
    manager = organism(organ("s", "step"))

    def release(result: Result) -> None:
        if len(result.chunks) == 3:
            misbehaviour.ALLOWED["a"].set()

    result = await run(manager, batch(("s", {"name": "a"})), on_chunk=release)
    assert result.chunks == [0, 0, 0, 1]


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_cancellation_leaves_nothing_running(how: str) -> None:
    manager = organism(organ("s", "step", concurrency=3))
    wire = batch(*[("s", {"name": f"n{n}"}) for n in range(6)])
    if how == "close":
        stream_ = manager.handle_tasks(wire)
        async with anyio.create_task_group() as group:

            async def read() -> None:
                with anyio.CancelScope() as scope:
                    scopes.append(scope)
                    await anext(stream_)

            scopes: list[anyio.CancelScope] = []
            group.start_soon(read)
            for _ in range(3):
                await misbehaviour.ARRIVALS.get()
            scopes[0].cancel()
        await stream_.aclose()
    else:
        async with anyio.create_task_group() as group:
            group.start_soon(run, manager, wire)
            for _ in range(3):
                await misbehaviour.ARRIVALS.get()
            group.cancel_scope.cancel()
    assert sum(misbehaviour.STARTED.values()) == sum(misbehaviour.ENDED.values()) == 3
    assert in_flight(manager) == 0
    figures = manager.status()["organs"]["s"]
    assert figures["waiting"] == 0
    assert figures["interrupted"] == 3
    assert (await run(manager, batch(("echo", {})))).causes[0] == "completed"


async def test_closing_between_chunks_leaves_nothing_running() -> None:
    manager = organism(organ("s", "step", concurrency=3))
    stream_ = manager.handle_tasks(batch(("echo", {}), *[("s", {"name": f"n{n}"}) for n in range(6)]))
    await anext(stream_)
    await stream_.aclose()
    assert sum(misbehaviour.STARTED.values()) == sum(misbehaviour.ENDED.values()) == 3
    assert in_flight(manager) == 0


async def test_suspects_without_a_process_run_beside_others_but_never_two_at_once() -> None:
    manager = organism(organ("s", "step", suspects="replica"), organ("t", "step", suspects="replica"))
    first = suspected(batch(("s", {"name": "a"}), ("s", {"name": "b"}), ("t", {"name": "c"})))
    async with anyio.create_task_group() as group:
        group.start_soon(run, manager, batch(("s", {"name": "before"})))
        assert await misbehaviour.ARRIVALS.get() == "before"
        group.start_soon(run, manager, {**first, "ids": ["x", "y", "z"]})
        assert await misbehaviour.ARRIVALS.get() == "a", "nothing has to end first"
        group.start_soon(run, manager, {**batch(("s", {"name": "after"})), "ids": ["w"]})
        assert await misbehaviour.ARRIVALS.get() == "after", "and nothing waits for it"
        assert manager.status()["organs"]["s"]["suspects"] == 1
        assert misbehaviour.STARTED == {"before": 1, "a": 1, "after": 1}
        for name, following in (("a", "b"), ("b", "c")):
            misbehaviour.ALLOWED[name].set()
            assert await misbehaviour.ARRIVALS.get() == following, "one after the other, over all organs"
        for name in ("before", "after", "c"):
            misbehaviour.ALLOWED[name].set()
    assert manager.status()["organs"]["s"]["suspects"] == 0


async def test_a_suspect_that_is_given_up_makes_room_for_the_next() -> None:
    manager = organism(organ("s", "step", suspects="replica"))
    async with anyio.create_task_group() as group:

        async def alone(name: str, scope: anyio.CancelScope) -> None:
            with scope:
                await run(manager, {**suspected(batch(("s", {"name": name}))), "ids": [name]})

        scopes = {name: anyio.CancelScope() for name in "abc"}
        group.start_soon(alone, "a", scopes["a"])
        assert await misbehaviour.ARRIVALS.get() == "a"
        group.start_soon(alone, "b", scopes["b"])
        group.start_soon(alone, "c", scopes["c"])
        await anyio.wait_all_tasks_blocked()
        scopes["b"].cancel()
        await anyio.wait_all_tasks_blocked()
        scopes["a"].cancel()
        assert await misbehaviour.ARRIVALS.get() == "c"
        misbehaviour.ALLOWED["c"].set()
    assert misbehaviour.STARTED == {"a": 1, "c": 1}
    assert (await run(manager, batch(("echo", {})))).causes[0] == "completed"


async def test_outcomes_wait_for_each_other_but_not_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome_stream, "COALESCE_S", 60)
    manager = organism(organ("s", "step"))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:

            async def release() -> None:
                misbehaviour.ALLOWED[await misbehaviour.ARRIVALS.get()].set()

            group.start_soon(release)
            result = await run(manager, batch(("echo", {}), ("s", {"name": "a"})))
    assert result.chunks == [2]
