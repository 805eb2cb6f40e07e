"""`organism leftovers` finds what an older system has left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import ray

from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.queue import Queue
from tests.support.sql import pool_of
from tests.support.stack import Stack

pytestmark = [pytest.mark.anyio, pytest.mark.stack]

STUCK = "INSERT INTO tasks (type, status, locked_by) VALUES ('t', 'running', 'dispatcher-1')"


class Coordinator:
    """As an older system started it."""

    def ready(self) -> bool:
        return True


async def leftovers(stack: Stack, *arguments: str, code: int) -> Any:
    return await asyncio.to_thread(stack.run, "leftovers", *arguments, code=code)


@pytest.mark.soak
async def test_detached_actors_and_stuck_rows_are_found_and_actors_ended(
    stack: Stack, stack_queue: Queue
) -> None:
    await (await RayCluster.named("default")).connect()
    options: Any = {"name": "old_coordinator", "namespace": "old-dev", "lifetime": "detached", "num_cpus": 0}
    actor: Any = ray.remote(Coordinator).options(**options).remote()
    await actor.ready.remote()
    await pool_of(stack_queue).execute(STUCK)
    found = await leftovers(stack, code=1)
    assert found["actors"] == ["old-dev/old_coordinator"], "and nothing of Serve's"
    assert [(held["locked_by"], held["tasks"]) for held in found["tasks"]] == [("dispatcher-1", 1)]
    await leftovers(stack, "--kill", "old-dev/other", code=1)
    killed = await leftovers(stack, "--kill", "old-dev/old_coordinator", code=1)
    assert (killed["killed"], killed["actors"]) == (["old-dev/old_coordinator"], [])
    await pool_of(stack_queue).execute("DELETE FROM tasks")
    assert (await leftovers(stack, code=0))["actors"] == []
