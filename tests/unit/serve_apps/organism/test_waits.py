"""Handlers that wait for an event: what they ask for, and what they get when their task is resumed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from organism_flows.blocks.snooze import Snooze
from organism_flows.blocks.task_report import Checkpoint, EndedWait, TaskReport
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism.elsewhere import Elsewhere
from tests.support.organism.helpers import batch, organ, organism, run

pytestmark = pytest.mark.anyio
MODULE = "tests.support.organism.waiting"


def ended(wire: dict[str, Any], *waits: EndedWait | None) -> dict[str, Any]:
    """The batch, as if the tasks had waited before."""
    found = {claim: wait for claim, wait in zip(wire["claims"], waits, strict=True) if wait is not None}
    return {**wire, "waits": found}


@pytest.mark.parametrize(
    ("handler", "more"),
    [("plain", {}), ("coroutine", {}), ("batched", {"batch": True}), ("plain", {"processes": 1})],
)
async def test_every_form_of_handler_waits_and_gets_its_event(handler: str, more: dict[str, Any]) -> None:
    manager = organism(organ("r", f"{MODULE}:{handler}", **more))
    waits = (
        None,
        EndedWait("approval", '{"by": "ada"}', False, False),
        EndedWait("approval", None, False, True),
        EndedWait("approval", None, True, False),
        EndedWait("approval", None, True, True),
    )
    result = await run(manager, ended(batch(*[("r", {})] * 5), *waits))
    assert result.results[0] == asdict(Snooze(after_s=60, event="approval"))
    assert (result.causes[0], result.errors[0]) == ("snoozed", result.errors[0])
    assert "WaitFor: waits for the event approval" in (result.errors[0] or "")
    assert result.results[1] == ["approval", {"by": "ada"}, False]
    assert result.results[2] == ["approval", None, False]
    assert result.results[3] == ["approval", None, True]
    assert result.causes[4] == "rejected"
    assert result.errors[4] == "the event approval that it waited for did not come in time"


async def test_an_organ_apart_gets_the_events_of_its_tasks() -> None:
    config = {"organs": [organ("r", f"{MODULE}:plain", deployment={})], "default_timeout_s": 60}
    manager = OrganismManager(config, connect=lambda _: Elsewhere(config, "r"))
    result = await run(
        manager, ended(batch(("echo", {}), ("r", {})), None, EndedWait("approval", "1", False, False))
    )
    assert result.results[1] == ["approval", 1, False]


async def test_a_step_that_waits_keeps_the_plan_and_the_steps_before_it() -> None:
    manager = organism(
        organ("planner", "plan"),
        organ("seen", "double"),
        organ("r", f"{MODULE}:plain"),
        escalation={"drift_score": 1.0, "planner": "planner"},
    )
    plan = {"steps": [{"organ": "seen", "params": {"n": 4}}, {"organ": "r", "params": {}}]}
    wire = {**batch(("r", {"plan": plan})), "drift_scores": [1.0]}
    saved: list[TaskReport] = []
    async for outcomes in manager.handle_tasks(wire):
        saved += outcomes["reports"]
        causes = outcomes["causes"]
    assert causes == ["snoozed"]
    again = ended(wire, EndedWait("approval", '"yes"', False, False))
    result = await run(manager, {**again, "checkpoints": [Checkpoint(saved[-1].step, saved[-1].state or "")]})
    assert [step["result"] for step in result.results[0]["steps"]] == [8, ["approval", "yes", False]]
    organs = manager.status()["organs"]
    assert [organs[name]["completed"] for name in ("planner", "seen", "r")] == [1, 1, 1]
