"""What the order of a type means on a replica: tasks stop when they expire, and handlers get their key."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

import pytest

from organism_flows.blocks.queue import Batch
from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.execution.jobs import Job
from organism_flows.serve_apps.organism.execution.local.job_queue import JobQueue
from organism_flows.serve_apps.organism.execution.outcome_stream import BatchCall
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism import misbehaviour
from tests.support.organism.elsewhere import Elsewhere
from tests.support.organism.helpers import batch, organ, organism, run

pytestmark = pytest.mark.anyio
HANDLERS = "tests.support.organism.reporting"


def expiring(wire: dict[str, Any], *left_s: float) -> dict[str, Any]:
    """The batch, whose first tasks expire in so many seconds."""
    return {**wire, "expires_s": dict(zip(wire["claims"], left_s, strict=False))}


async def test_an_attempt_ends_when_its_task_expires() -> None:
    manager = organism(organ("hang", "step", timeout_s=600))
    result = await run(manager, expiring(batch(("hang", {"name": "a"})), 0.05))
    assert result.causes == {0: "timed_out"}
    assert "timed out, or expired, after 0.0" in (result.errors[0] or "")


async def test_a_timeout_that_comes_first_holds() -> None:
    manager = organism(organ("hang", "step"))
    result = await run(manager, expiring(batch(("hang", {"name": "a"}, 0.05)), 600.0))
    assert result.causes == {0: "timed_out"}


async def test_what_has_expired_on_the_way_does_not_begin() -> None:
    manager = organism(organ("hang", "step", concurrency=1))
    result = await run(manager, expiring(batch(("hang", {"name": "a"}), ("echo", {})), -0.1, 60.0))
    assert result.causes == {0: "recalled", 1: "completed"}
    assert result.errors[0] == "expired before a handler began"
    assert not misbehaviour.STARTED


async def test_what_expires_while_it_waits_for_a_handler_does_not_begin() -> None:
    manager = organism(organ("hang", "step", concurrency=1, timeout_s=0.2))
    wire = expiring(batch(("hang", {"name": "a"}), ("hang", {"name": "b"})), 60.0, 0.1)
    result = await run(manager, wire)
    assert result.causes == {0: "timed_out", 1: "recalled"}


async def test_handlers_know_what_is_left() -> None:
    manager = organism(organ("c", "with_context", timeout_s=600))
    result = await run(manager, expiring(batch(("c", {}), ("c", {})), 30.0))
    assert 0 < result.results[0]["left"] <= 30
    assert result.results[1]["left"] > 500


async def test_a_batch_has_the_time_of_its_last_task() -> None:
    manager = organism(organ("b", f"{HANDLERS}:keyed_batch", batch=True, timeout_s=600))
    result = await run(manager, expiring(batch(("b", {}), ("b", {}), ("b", {})), 30.0, 60.0, -1.0))
    assert result.causes == {0: "completed", 1: "completed", 2: "recalled"}


async def test_an_organ_elsewhere_gets_what_is_left_by_then() -> None:
    config: dict[str, Any] = {"organs": [organ("far", "step", deployment={}, timeout_s=600)]}
    elsewhere = Elsewhere(config, "far")
    manager = OrganismManager(config, connect=lambda _: elsewhere)
    result = await run(manager, expiring(batch(("far", {"name": "a"})), 0.05))
    assert result.causes == {0: "timed_out"}


@pytest.mark.parametrize(
    ("handler", "more"),
    [("keyed", {}), ("keyed_coroutine", {}), ("keyed", {"processes": True, "concurrency": 1})],
)
async def test_a_handler_gets_the_key_of_its_task(handler: str, more: dict[str, Any]) -> None:
    manager = organism(organ("k", f"{HANDLERS}:{handler}", **more))
    wire = batch(("k", {}))
    assert (await run(manager, {**wire, "keys": {100: "model-a"}})).results == {0: "model-a"}
    assert (await run(manager, wire)).results == {0: None}


def test_a_handler_batch_has_one_key() -> None:
    """Even where calls of several keys wait on one replica."""

    async def sizes() -> list[int]:
        queue = JobQueue(OrganConfig(id="b", task_types=["b"], handler="m:f", batch=True))
        for key in ("a", "a", "b", None, "a"):
            call = BatchCall(Batch.from_wire(batch(("b", {}), ("b", {}))), copy_context())
            call.batch.keys = dict.fromkeys(call.batch.claims, key) if key else {}
            queue.add([Job(call, position, 60.0, "fast") for position in range(2)])
        found = []
        while jobs := queue.next():
            found.append(len(jobs))
        return found

    assert asyncio.run(sizes()) == [4, 2, 2, 2]
