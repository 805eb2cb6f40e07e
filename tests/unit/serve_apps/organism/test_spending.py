"""What handlers report to have spent comes with their outcome, whatever becomes of the task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from organism_flows.serve_apps.organism.handler_api.context import Context
from tests.support.organism.helpers import batch, organ, organism, run

pytestmark = pytest.mark.anyio


def spend(task: dict[str, Any], context: Any) -> None:
    for units in task["params"]["units"]:
        context.spent(units)
    if task["params"].get("fails"):
        raise RuntimeError("after it has spent")


async def spend_async(task: dict[str, Any], context: Any) -> None:
    spend(task, context)
    if task["params"].get("hangs"):
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("handler", "more"), [("spend", {}), ("spend_async", {}), ("spend", {"processes": True})]
)
async def test_every_form_of_handler_reports(handler: str, more: dict[str, Any]) -> None:
    manager = organism(organ("s", f"tests.unit.serve_apps.organism.test_spending:{handler}", **more))
    rows = [{"units": [1, 2.5]}, {"units": []}, {"units": [0]}, {"units": [7], "fails": True}]
    result = await run(manager, batch(*(("s", row) for row in rows)))
    assert result.causes == {0: "completed", 1: "completed", 2: "completed", 3: "failed"}
    assert result.spent == {0: 3.5, 1: None, 2: 0.0, 3: 7.0}


async def test_a_task_that_times_out_has_spent_what_it_reported() -> None:
    manager = organism(organ("s", "tests.unit.serve_apps.organism.test_spending:spend_async"))
    result = await run(manager, batch(("s", {"units": [4], "hangs": True}, 0.5)))
    assert (result.causes, result.spent) == ({0: "timed_out"}, {0: 4.0})


@pytest.mark.parametrize("units", [-1, float("nan"), float("inf"), "x"])
def test_units_that_make_no_sense_are_refused(units: Any) -> None:
    context = Context({"task_id": "t", "claim": 1, "attempt": 1}, 0.0, 1.0, lambda: False, lambda _: None)
    with pytest.raises(ValueError, match=r"units|could not convert"):
        context.spent(units)
    assert context.units is None
