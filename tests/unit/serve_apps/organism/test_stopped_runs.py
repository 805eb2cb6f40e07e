"""Runs whose claim is lost, and replicas that are taken down: handlers are told, and no task runs twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from organism_flows.blocks.queue.wire import Outcomes
from organism_flows.serve_apps.organism.execution import open_calls
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism import misbehaviour
from tests.support.organism.held_timeouts import HeldTimeouts
from tests.support.organism.helpers import batch, in_flight, organ, organism, run
from tests.support.stack import until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    misbehaviour.reset()
    monkeypatch.setattr(open_calls, "LINGER_S", 0.05)
    yield
    misbehaviour.RELEASE.set()


def claimed(claim: int, *row: Any) -> dict[str, Any]:
    """The batch of one task, ``task-0``, under this claim."""
    return {**batch(row), "claims": [claim]}


def started(manager: OrganismManager, wire: dict[str, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(run(manager, wire))


async def test_a_newer_claim_stops_the_older_run_before_it_begins() -> None:
    manager = organism(organ("s", "step"))
    older = started(manager, claimed(1, "s", {"name": "older"}))
    assert await misbehaviour.ARRIVALS.get() == "older"
    newer = started(manager, claimed(2, "s", {"name": "newer"}))
    assert await misbehaviour.ARRIVALS.get() == "newer"
    assert misbehaviour.ENDED["older"] == 1, "its handler has ended before the newer began"
    assert (await older).causes == {0: "interrupted"}
    misbehaviour.ALLOWED["newer"].set()
    assert (await newer).causes == {0: "completed"}


async def test_a_plain_function_is_told_and_ends_before_the_newer_claim_begins() -> None:
    manager = organism(organ("p", "patient", concurrency=4))
    older = started(manager, claimed(1, "p", {}))
    await until(lambda: misbehaviour.STARTED["claim 1"])
    newer = started(manager, claimed(2, "p", {}))
    await until(lambda: misbehaviour.STARTED["claim 2"])
    assert misbehaviour.ENDED["claim 1"] == 1
    assert (await older).causes == {0: "interrupted"}
    misbehaviour.RELEASE.set()
    assert (await newer).causes == {0: "completed"}


async def test_a_plain_function_that_does_not_look_is_waited_for_and_nobody_charged() -> None:
    manager = organism(organ("hang", "block", timeout_s=60, concurrency=4))
    older = started(manager, claimed(1, "hang", {}))
    await until(lambda: misbehaviour.STARTED["block"])
    newer = started(manager, claimed(2, "hang", {}))
    assert (await older).causes == {0: "interrupted"}
    await asyncio.sleep(0.2)
    assert misbehaviour.STARTED["block"] == 1, "never twice at once on one replica"
    assert manager.running()["organs"]["hang"]["lingering"] == 1
    misbehaviour.RELEASE.set()
    assert (await newer).causes == {0: "completed"}
    assert misbehaviour.STARTED["block"] == 2
    assert manager.running()["organs"]["hang"]["lingering"] == 0


async def test_after_its_own_timeout_it_is_not_waited_for(timeouts: HeldTimeouts) -> None:
    manager = organism(organ("hang", "block", timeout_s=0.01))
    assert (await timeouts.outlived(manager, claimed(1, "hang", {}), "hang")).causes == {0: "timed_out"}
    again = await run(manager, claimed(2, "hang", {}))
    assert again.causes == {0: "timed_out"}
    assert "not begun: an earlier run of it outlived its timeout" in (again.errors[0] or "")
    assert misbehaviour.STARTED["block"] == 1


async def test_a_claim_that_comes_late_does_not_stop_a_newer_one() -> None:
    manager = organism(organ("s", "step"))
    newer = started(manager, claimed(2, "s", {"name": "newer"}))
    assert await misbehaviour.ARRIVALS.get() == "newer"
    assert (await run(manager, claimed(1, "s", {"name": "older"}))).causes == {0: "recalled"}
    misbehaviour.ALLOWED["newer"].set()
    assert (await newer).causes == {0: "completed"}
    assert misbehaviour.STARTED == {"newer": 1}


async def test_a_caller_that_goes_away_tells_plain_functions_and_frees_their_slots() -> None:
    manager = organism(organ("p", "patient", concurrency=1))
    gone = started(manager, claimed(1, "p", {}))
    await until(lambda: misbehaviour.STARTED["claim 1"])
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await until(lambda: misbehaviour.ENDED["claim 1"])
    assert in_flight(manager) == 0
    misbehaviour.RELEASE.set()
    assert (await run(manager, {**batch(("p", {})), "ids": ["another"]})).causes == {0: "completed"}


async def test_a_cancel_reaches_every_run_of_a_task_up_to_its_claim() -> None:
    manager = organism(organ("s", "step"))
    older = started(manager, claimed(5, "s", {"name": "older"}))
    assert await misbehaviour.ARRIVALS.get() == "older"
    assert manager.cancel_tasks({"task-0": 4, "other": 9}) == [], "a newer run is not meant"
    assert manager.cancel_tasks({"task-0": 7}) == ["task-0"]
    assert (await older).causes == {0: "cancelled"}


async def test_recalled_is_what_no_handler_has_begun_with() -> None:
    manager = organism(organ("s", "step", concurrency=1))
    running = started(manager, batch(("s", {"name": "a"}), ("s", {"name": "b"})))
    assert await misbehaviour.ARRIVALS.get() == "a"
    manager.recall_tasks([100, 101], leaving=True)
    misbehaviour.ALLOWED["a"].set()
    assert (await running).causes == {0: "completed", 1: "recalled"}
    assert misbehaviour.STARTED == {"a": 1}


async def test_a_call_tells_which_of_its_tasks_have_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("organism_flows.serve_apps.organism.execution.outcome_stream.SIGN_OF_LIFE_S", 0.01)
    manager = organism(organ("s", "step", concurrency=1))
    told: list[int] = []
    async for wire in manager.handle_tasks(batch(("s", {"name": "a"}), ("s", {"name": "b"}))):
        outcomes = Outcomes.from_wire(wire)
        told += outcomes.begun
        for name, position in (("a", 0), ("b", 1)):
            if position in told:
                misbehaviour.ALLOWED[name].set()
    assert told == [0, 1], "each once, as it begins"


async def test_a_replica_that_is_taken_down_hands_back_what_waits_at_once_and_what_runs_in_time() -> None:
    manager = organism(organ("s", "step", concurrency=1, drain_s=0.3), organ("t", "step", drain_s=600))
    running = started(
        manager, batch(("s", {"name": "a"}), ("s", {"name": "b"}), ("t", {"name": "c"}), ("echo", {}))
    )
    assert {await misbehaviour.ARRIVALS.get(), await misbehaviour.ARRIVALS.get()} == {"a", "c"}
    manager.drain()
    assert manager.running()["draining"]
    assert (await run(manager, {**batch(("echo", {})), "ids": ["late"]})).causes == {0: "recalled"}
    direct = await manager.handle_incoming_task({"task_id": "direct", "type": "echo"})
    assert (direct["success"], direct["retryable"]) == (False, True)
    assert misbehaviour.ENDED == {}, "what runs goes on"
    await asyncio.sleep(0.35)
    manager.drain()
    await until(lambda: misbehaviour.ENDED["a"])
    assert misbehaviour.ENDED["c"] == 0, "as long as its own organ allows"
    misbehaviour.ALLOWED["c"].set()
    result = await running
    assert result.causes == {0: "interrupted", 1: "recalled", 2: "completed", 3: "completed"}
    assert result.errors[0] == "the replica was taken down before the task ended"


async def test_the_operator_may_cut_a_drain_short() -> None:
    manager = organism(organ("s", "step", drain_s=600))
    running = started(manager, batch(("s", {"name": "a"})))
    assert await misbehaviour.ARRIVALS.get() == "a"
    manager.limit_drain(0)
    assert not running.done(), "it is not taken down yet"
    manager.drain()
    assert (await running).causes == {0: "interrupted"}
    await until(lambda: misbehaviour.ENDED["a"])


async def test_a_new_configuration_lifts_the_limit_of_a_drain_that_did_not_come() -> None:
    manager = organism(organ("s", "step", drain_s=600))
    manager.limit_drain(0)
    await manager.reconfigure({"organs": [organ("s", "step", drain_s=600, timeout_s=50)]})
    running = started(manager, batch(("s", {"name": "a"})))
    assert await misbehaviour.ARRIVALS.get() == "a"
    manager.drain()
    assert misbehaviour.ENDED == {}
    misbehaviour.ALLOWED["a"].set()
    assert (await running).causes == {0: "completed"}


async def test_a_newer_claim_waits_for_the_handler_batch_that_the_older_is_in() -> None:
    manager = organism(organ("b", "batch_that_steps", batch=True))
    wire = batch(("b", {}), ("b", {}))
    older = started(manager, wire)
    assert await misbehaviour.ARRIVALS.get() == "batch"
    newer = started(manager, claimed(500, "b", {}))
    await asyncio.sleep(0.1)
    assert misbehaviour.STARTED == {"batch": 1}, "the batch goes on for its other task"
    misbehaviour.ALLOWED["batch"].set()
    assert (await older).causes == {0: "interrupted", 1: "completed"}
    assert await misbehaviour.ARRIVALS.get() == "batch"
    misbehaviour.ALLOWED["batch"].set()
    assert (await newer).causes == {0: "completed"}


async def test_a_handler_that_is_told_to_stop_has_time_before_its_replica_goes() -> None:
    manager = organism(organ("p", "lingering", drain_s=0))
    running = started(manager, claimed(1, "p", {}))
    await until(lambda: misbehaviour.STARTED["lingering"])
    manager.drain()
    await asyncio.sleep(0.1)
    assert not running.done(), "the call stays open, and with it the replica"
    misbehaviour.RELEASE.set()
    assert (await running).causes == {0: "interrupted"}
    assert misbehaviour.ENDED["lingering"] == 1
