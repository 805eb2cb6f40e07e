"""An organ elsewhere, whose replicas come, go and die by script: every task gets one outcome, its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import Outcomes
from organism_flows.serve_apps.organism.execution import remote_organ
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism import misbehaviour
from tests.support.organism.elsewhere import Elsewhere
from tests.support.organism.held_timeouts import HeldTimeouts
from tests.support.organism.helpers import batch, cancel_claims, in_flight, organ, run, suspected
from tests.support.stack import until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    misbehaviour.reset()
    monkeypatch.setattr(remote_organ, "PAUSES_S", (0.0, 0.01))


def apart(
    handler: str, deployment: dict[str, Any] | None = None, **more: Any
) -> tuple[OrganismManager, Elsewhere]:
    config = {"organs": [organ("far", handler, deployment=deployment or {}, **more)], "default_timeout_s": 5}
    elsewhere = Elsewhere(config, "far")
    return OrganismManager(config, connect=lambda _: elsewhere), elsewhere


async def test_tasks_run_there_and_come_back() -> None:
    manager, elsewhere = apart("seen")
    result = await run(manager, batch(("far", {"name": "a"}), ("echo", {}), ("far", {"name": "b"})))
    assert result.causes == {0: "completed", 1: "completed", 2: "completed"}
    assert result.organs == {0: "far", 1: "basics", 2: "far"}
    assert result.results[0]["params"] == {"name": "a"}
    assert elsewhere.calls == [["a"], ["b"]], "a handler call is a call of Serve's"
    status = manager.status()["organs"]["far"]
    assert (status["form"], status["completed"], status["latency_ms"]["of_last"]) == ("deployment", 2, 2)


async def test_batch_handlers_get_their_batches() -> None:
    manager, elsewhere = apart("batch", batch=True, max_batch_size=3)
    rows = [("far", {"name": f"n{n}"}) for n in range(7)]
    result = await run(manager, batch(*rows))
    assert set(result.causes.values()) == {"completed"}
    assert [len(names) for names in elsewhere.calls] == [3, 3, 1]


async def test_every_ending_comes_back_as_it_was() -> None:
    manager, _ = apart("raise_plain")
    result = await run(manager, batch(("far", {"what": "value_error"}), ("far", {"what": "marked"})))
    assert result.causes == {0: "failed", 1: "rejected"}
    assert (result.errors[0] or "").startswith("ValueError: bad value")


async def test_the_timeout_is_the_organs_own(timeouts: HeldTimeouts) -> None:
    manager, _ = apart("step", timeout_s=0.1)
    result = await timeouts.outlived(manager, batch(("far", {"name": "a"})), "far")
    assert result.causes == {0: "timed_out"}
    assert "timed out after 0.1 s" in (result.errors[0] or "")
    assert misbehaviour.ENDED["a"] == 1


async def test_tasks_wait_for_a_replica_and_say_that_they_wait() -> None:
    manager, elsewhere = apart("seen")
    elsewhere.away = 5
    result = await run(manager, batch(("far", {"name": "a"})))
    assert (result.causes, len(elsewhere.calls)) == ({0: "completed"}, 6)


async def test_waiting_for_a_replica_is_told_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("organism_flows.serve_apps.organism.execution.outcome_stream.SIGN_OF_LIFE_S", 0.01)
    manager, elsewhere = apart("step")
    elsewhere.away = 10**9
    signs = []
    async for wire in manager.handle_tasks(batch(("far", {"name": "a"}))):
        outcomes = Outcomes.from_wire(wire)
        signs.append(outcomes.waiting)
        if len(signs) == 2:
            assert manager.status()["organs"]["far"]["trouble"] == "no replica"
            elsewhere.away = 0
        if not outcomes.waiting:
            misbehaviour.ALLOWED.setdefault("a", asyncio.Event()).set()
    assert signs[:2] == [True, True]
    assert False in signs


@pytest.mark.parametrize("size", [1, 4])
async def test_a_death_is_charged_to_the_task_that_causes_it(size: int) -> None:
    more: dict[str, Any] = {"batch": size > 1, "max_batch_size": size, "suspects": "replica"}
    manager, elsewhere = apart("batch" if size > 1 else "seen", **more)
    elsewhere.deadly = {"n3"}
    tasks = batch(*[("far", {"name": f"n{n}"}) for n in range(8)])
    first = await run(manager, tasks)
    assert first.causes[3] == "replica_lost", "nobody is charged for the first"
    assert set(first.causes.values()) <= {"completed", "replica_lost"}
    elsewhere.calls.clear()
    again = await run(manager, suspected(tasks))
    assert [n for n, cause in again.causes.items() if cause == "failed"] == [3]
    assert set(again.causes.values()) <= {"completed", "failed", "replica_lost"}, "what waited is not charged"
    assert again.errors[3] == "ran as the only suspect on a replica, and a replica died"
    assert all(len(names) == 1 for names in elsewhere.calls)


async def test_a_death_under_a_suspect_with_a_process_of_its_own_is_not_its_doing() -> None:
    manager, elsewhere = apart("seen")
    elsewhere.deadly = {"a"}
    assert (await run(manager, suspected(batch(("far", {"name": "a"}))))).causes == {0: "replica_lost"}


async def test_a_cancelled_task_is_stopped_there() -> None:
    manager, elsewhere = apart("step")
    running = asyncio.create_task(run(manager, batch(("far", {"name": "a"}), ("far", {"name": "b"}))))
    assert {await misbehaviour.ARRIVALS.get(), await misbehaviour.ARRIVALS.get()} == {"a", "b"}
    assert cancel_claims(manager, 100) == [100]
    await until(lambda: misbehaviour.ENDED["a"] == 1)
    assert misbehaviour.ENDED["b"] == 0
    misbehaviour.ALLOWED["b"].set()
    assert (await running).causes == {0: "cancelled", 1: "completed"}
    await until(lambda: in_flight(elsewhere.manager) == 0)


async def test_a_caller_that_goes_away_stops_what_runs_there() -> None:
    manager, elsewhere = apart("step")
    running = asyncio.create_task(run(manager, batch(("far", {"name": "a"}))))
    assert await misbehaviour.ARRIVALS.get() == "a"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert misbehaviour.ENDED["a"] == 1
    assert in_flight(elsewhere.manager) == 0
    assert manager.status()["organs"]["far"]["interrupted"] == 1


async def test_without_the_deployment_the_configuration_is_refused() -> None:
    config = {"organs": [organ("far", "seen", deployment={})]}
    with pytest.raises(ConfigurationError, match="organ 'far' is to be a deployment of its own, and the app"):
        OrganismManager(config)
    manager = OrganismManager({"organs": []})
    with pytest.raises(ConfigurationError):
        await manager.reconfigure(config)
    assert manager.health()["status"] == "degraded"
    assert "echo" in manager.status()["task_types"]


async def test_its_handler_is_imported_there_only() -> None:
    config = {"organs": [organ("far", "no_such_module:handle", deployment={})]}
    manager = OrganismManager(config, connect=lambda _: Elsewhere({"organs": [organ("far", "seen")]}, "far"))
    assert (await run(manager, batch(("far", {})))).causes == {0: "completed"}


async def test_an_organ_moves_out_and_back_under_load() -> None:
    here = {"organs": [organ("far", "step")], "default_timeout_s": 5}
    there = {"organs": [organ("far", "step", deployment={})], "default_timeout_s": 5}
    elsewhere = Elsewhere(there, "far")
    manager = OrganismManager(here, connect=lambda _: elsewhere)
    running = []
    for n, config in enumerate((there, here, there)):
        running.append(asyncio.create_task(run(manager, batch(("far", {"name": f"n{n}"})))))
        assert await misbehaviour.ARRIVALS.get() == f"n{n}"
        await manager.reconfigure(config)
    for n in range(3):
        misbehaviour.ALLOWED[f"n{n}"].set()
    for one in running:
        assert (await one).causes == {0: "completed"}
    assert manager.status()["retiring_organs"] == 0


async def test_health_of_organs_apart_asks_only_those_that_are_always_there() -> None:
    manager, _ = apart("seen")
    assert (await manager.health_apart())["far"]["status"] == "healthy"
    manager, _ = apart("seen", {"autoscaling": {"min_replicas": 0, "max_replicas": 2}})
    assert await manager.health_apart() == {}


@pytest.mark.parametrize("suspects", ["process", "replica"])
async def test_a_death_of_a_replica_that_is_taken_down_makes_no_suspect(suspects: str) -> None:
    manager, elsewhere = apart("seen", suspects=suspects)
    elsewhere.deadly, elsewhere.leaving = {"a"}, True
    tasks = batch(("far", {"name": "a"}))
    for wire in (tasks, suspected(tasks)):
        result = await run(manager, wire)
        assert result.causes == {0: "interrupted"}
        assert result.errors == {0: "a replica died while it was being taken down"}
