"""Escalated tasks: planned, their steps run by the organs, one outcome made of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism import misbehaviour
from tests.support.organism.held_timeouts import HeldTimeouts
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
from tests.support.stack import until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def clean() -> None:
    misbehaviour.reset()


def planning(*organs: dict[str, Any], planner: str | None = "planner", **more: Any) -> OrganismManager:
    """An organism that escalates every task with a drift score of 1 or more."""
    return organism(
        organ("planner", "plan"),
        organ("slow-planner", "plan_and_wait"),
        organ("work", "seen"),
        organ("double", "double"),
        organ("total", "total"),
        organ("step", "step"),
        organ("raise", "raise_plain"),
        *organs,
        escalation={"drift_score": 1.0, "planner": planner, "max_steps": 3},
        **more,
    )


def escalated(*plans: Any, timeout_s: float | None = None) -> dict[str, Any]:
    """A batch of tasks of type ``work`` with these plans."""
    wire = batch(*[("work", {"plan": plan}) for plan in plans])
    wire["drift_scores"] = [1.0] * len(plans)
    wire["timeouts"] = [timeout_s] * len(plans)
    return wire


def doubled(*numbers: int, **more: Any) -> dict[str, Any]:
    return {"steps": [{"organ": "double", "params": {"n": n}} for n in numbers], **more}


async def test_the_steps_of_a_plan_become_one_outcome() -> None:
    for parallel in (False, True):
        result = await run(planning(), escalated(doubled(1, 2, 3, parallel=parallel)))
        assert (result.causes, result.paths) == ({0: "completed"}, {0: "escalated"})
        steps = result.results[0]["steps"]
        assert [(s["organ"], s["type"], s["result"]) for s in steps] == [
            ("double", "work", 2 * n) for n in (1, 2, 3)
        ]
        assert all(step["elapsed_ms"] > 0 for step in steps)


async def test_a_step_finds_its_organ_by_its_type() -> None:
    result = await run(planning(), escalated({"steps": [{"type": "echo", "params": {"n": 1}}]}))
    assert (result.results[0]["steps"][0]["organ"], result.results[0]["steps"][0]["result"]) == (
        "basics",
        {"n": 1},
    )


async def test_steps_are_the_task_itself_to_their_handlers() -> None:
    wire = escalated({"steps": [{"organ": "work", "type": "t", "params": {"n": 1}}]})
    wire["attempts"], wire["domains"] = [4], ["d"]
    result = await run(planning(), wire)
    task = result.results[0]["steps"][0]["result"]
    assert (task["task_id"], task["claim"], task["attempt"], task["domain"]) == ("task-0", 100, 4, "d")
    assert (task["type"], task["params"]) == ("t", {"n": 1})


async def test_results_are_passed_on_where_the_plan_says_so() -> None:
    plan = doubled(1, 2, pass_results=True)
    plan["steps"].append({"organ": "total"})
    result = await run(planning(), escalated(plan))
    assert result.results[0]["steps"][2]["result"] == 6


async def test_steps_in_order_wait_for_each_other_and_steps_in_parallel_do_not() -> None:
    steps = [{"organ": "step", "params": {"name": name}} for name in "ab"]
    manager = planning()
    running = asyncio.create_task(run(manager, escalated({"steps": steps})))
    assert await misbehaviour.ARRIVALS.get() == "a"
    await asyncio.sleep(0)
    assert misbehaviour.STARTED["b"] == 0
    misbehaviour.ALLOWED["a"].set()
    assert await misbehaviour.ARRIVALS.get() == "b"
    misbehaviour.ALLOWED["b"].set()
    await running
    misbehaviour.reset()
    running = asyncio.create_task(run(manager, escalated({"steps": steps, "parallel": True})))
    assert {await misbehaviour.ARRIVALS.get(), await misbehaviour.ARRIVALS.get()} == {"a", "b"}
    for name in "ab":
        misbehaviour.ALLOWED[name].set()
    await running


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("now", ["Input should be a valid dictionary"]),
        ({"steps": []}, ["steps", "at least 1"]),
        ({"steps": [{}]}, ["steps[0]", "a step needs an organ or a type"]),
        ({"steps": [{"organ": "double", "parms": {}}]}, ["steps[0].parms is not a known field"]),
        ({"steps": [{"organ": "duoble"}]}, ["there is no organ 'duoble'; nearest known: double"]),
        ({"steps": [{"type": "ecko"}]}, ["no organ serves type 'ecko'; nearest known: echo"]),
        (doubled(1, 2, 3, 4), ["4 of them, more than max_steps (3)"]),
        (doubled(1, parallel=True, pass_results=True), ["steps in parallel"]),
    ],
)
async def test_a_wrong_plan_fails_at_once_and_says_why(plan: Any, words: list[str]) -> None:
    result = await run(planning(), escalated(plan, doubled(1)))
    assert result.causes == {0: "rejected", 1: "completed"}
    for word in ["the plan of 'planner' is wrong", *words]:
        assert word in (result.errors[0] or "")


async def test_a_step_that_fails_fails_the_task_and_ends_the_plan() -> None:
    steps = [
        {"organ": "double", "params": {"n": 1}},
        {"organ": "raise", "params": {"what": "value_error"}},
        {"organ": "step", "params": {"name": "never"}},
    ]
    result = await run(planning(), escalated({"steps": steps}))
    assert result.causes == {0: "failed"}
    assert (result.errors[0] or "").startswith(
        "step 2 of 3 (organ 'raise', type 'work'): ValueError: bad value"
    )
    assert misbehaviour.STARTED["never"] == 0


async def test_a_permanent_error_of_a_step_is_permanent() -> None:
    result = await run(planning(), escalated({"steps": [{"organ": "raise", "params": {"what": "marked"}}]}))
    assert result.causes == {0: "rejected"}


async def test_a_planner_that_fails_fails_the_task() -> None:
    manager = planning(planner="raise")
    wire = batch(("work", {"what": "value_error"}))
    wire["drift_scores"] = [2.0]
    result = await run(manager, wire)
    assert result.causes == {0: "failed"}
    assert (result.errors[0] or "").startswith("the planner (organ 'raise', type 'work'): ValueError")


async def test_planner_and_steps_share_the_timeout_of_the_task(timeouts: HeldTimeouts) -> None:
    steps = [{"organ": "double", "params": {"n": 1}}, {"organ": "step", "params": {"name": "a"}}]
    running = asyncio.create_task(run(planning(), escalated({"steps": steps}, timeout_s=60)))
    assert await misbehaviour.ARRIVALS.get() == "a"
    timeouts.lapse("step")
    result = await running
    assert result.causes == {0: "timed_out"}
    assert "step 2 of 2 (organ 'step'" in (result.errors[0] or "")
    assert misbehaviour.ENDED["a"] == 1, "it was cancelled"


async def test_a_cancelled_task_stops_its_steps() -> None:
    manager = planning()
    steps = [{"organ": "step", "params": {"name": name}} for name in "ab"]
    running = asyncio.create_task(run(manager, escalated({"steps": steps, "parallel": True})))
    for _ in "ab":
        await misbehaviour.ARRIVALS.get()
    assert cancel_claims(manager, 100) == [100]
    assert (await running).causes == {0: "cancelled"}
    await until(lambda: misbehaviour.ENDED["a"] + misbehaviour.ENDED["b"] == 2)
    assert in_flight(manager) == 0


@pytest.mark.parametrize(("planner", "name"), [("planner", "a"), ("slow-planner", "plan")])
async def test_a_caller_that_goes_away_stops_planner_and_steps(planner: str, name: str) -> None:
    manager = planning(planner=planner)
    steps = [{"organ": "step", "params": {"name": "a"}}]
    running = asyncio.create_task(run(manager, escalated({"steps": steps})))
    assert await misbehaviour.ARRIVALS.get() == name
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until(lambda: misbehaviour.ENDED[name] == 1)
    await until(lambda: in_flight(manager) == 0)
    assert manager.status()["escalation"]["in_flight"] == 0


async def test_without_a_planner_drifting_tasks_go_to_their_organ_and_say_so() -> None:
    manager = planning(planner=None)
    result = await run(manager, escalated({"steps": []}))
    assert (result.causes, result.paths, result.organs) == ({0: "completed"}, {0: "fallback"}, {0: "work"})
    await run(manager, batch(("echo", {}), ("echo", {})))
    drift = manager.status()["drift"]
    assert drift["paths"] == {"fast": 2, "escalated": 0, "fallback": 1}
    assert drift["fast_share"] == pytest.approx(2 / 3, abs=1e-6)


async def test_tasks_that_do_not_drift_take_the_fast_path() -> None:
    wire = escalated(doubled(1), doubled(2))
    wire["drift_scores"] = [0.99, 1.0]
    result: Result = await run(planning(), wire)
    assert result.paths == {0: "fast", 1: "escalated"}
    assert result.organs == {0: "work", 1: "planner"}


@pytest.mark.parametrize("suspects", ["process", "replica"])
async def test_a_suspect_may_be_escalated(suspects: str) -> None:
    manager = planning()
    config = manager.status()["config"]
    config["organs"] = [{**one, "suspects": suspects} for one in config["organs"]]
    await manager.reconfigure(config)
    result = await run(manager, suspected(escalated(doubled(1, 2))))
    assert result.causes == {0: "completed"}


async def test_an_escalation_outlives_a_reconfiguration() -> None:
    manager = planning()
    running = asyncio.create_task(
        run(
            manager,
            escalated(
                {
                    "steps": [
                        {"organ": "step", "params": {"name": "a"}},
                        {"organ": "double", "params": {"n": 2}},
                    ]
                }
            ),
        )
    )
    assert await misbehaviour.ARRIVALS.get() == "a"
    await manager.reconfigure({"organs": [organ("step", "step", concurrency=1)]})
    misbehaviour.ALLOWED["a"].set()
    assert (await running).results[0]["steps"][1]["result"] == 4
    assert manager.status()["retiring_organs"] == 0
