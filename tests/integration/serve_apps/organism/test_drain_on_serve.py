"""Replicas that Serve takes down hand back what they have in time, and say so: promise 15."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
from ray import serve
from ray.serve.api import _run

from organism_flows.blocks.errors import OrganismUnavailable, ReplicaLost
from organism_flows.blocks.organism_client import OrganismClient
from organism_flows.blocks.prefect_blocks.organism import Organism
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.queue.wire import Batch, Outcomes
from organism_flows.serve_apps.organism.app import OrganismDeployment
from organism_flows.serve_apps.organism.config import load_config
from organism_flows.serve_apps.organism.release.serve_config import serve_config
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack]
APP = "drained"
CONFIG = Path(__file__).parents[3] / "organism" / "drained.yaml"
CLAIMS = count(3_000_000)


def deployed() -> None:
    """Deploy the app; once more, and its replica is replaced."""
    config = load_config(CONFIG)
    [options] = serve_config(config)["applications"][0]["deployments"]
    deployment: Any = OrganismDeployment
    application = deployment.options(
        user_config=config.model_dump(mode="json"),
        num_replicas=1,
        max_ongoing_requests=options["max_ongoing_requests"],
        graceful_shutdown_timeout_s=options["graceful_shutdown_timeout_s"],
        graceful_shutdown_wait_loop_s=options["graceful_shutdown_wait_loop_s"],
        ray_actor_options={"num_cpus": 0.01},
    ).bind({}, None)
    _run(application, name=APP, route_prefix=None, _blocking=False)


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[OrganismClient]:
    await RayCluster().connect()
    await asyncio.to_thread(deployed)
    client = Organism(app_name=APP).client()
    await until(lambda: _is_up(client), patience=60)
    yield client
    await asyncio.to_thread(serve.delete, APP, _blocking=False)


async def _is_up(client: OrganismClient) -> bool:
    return bool(serve.status().applications[APP].status == "RUNNING" and (await client.health()))


def task(kind: str, until_file: Path) -> Batch:
    params = orjson.dumps({"until": str(until_file), "cancelled": f"{until_file}-cut"}).decode()
    claim = next(CLAIMS)
    return Batch(
        [f"t{claim}"], [claim], [1], [kind], [params], [None], [None], [0.0], [None], [0], [False], [None]
    )


async def outcome(client: OrganismClient, batch: Batch) -> Outcomes:
    ended = Outcomes()
    async for outcomes in client.call(batch):
        ended.extend(outcomes)
    return ended


async def leaving_before_its_death(client: OrganismClient, batch: Batch) -> bool:
    """Whether a replica that is killed had said before that it leaves: then no task of it is to blame."""
    leaving = False
    with pytest.raises(ReplicaLost):  # noqa: PT012
        async for outcomes in client.call(batch):
            leaving |= outcomes.leaving
    return leaving


async def test_a_replica_that_is_replaced_hands_back_and_is_not_lost(
    client: OrganismClient, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    files = {name: tmp_path / name for name in ("brief", "behind", "patient")}
    calls = {
        name: asyncio.create_task(outcome(client, task(name.replace("behind", "brief"), file)))
        for name, file in files.items()
        if name != "behind"
    }
    killed = asyncio.create_task(leaving_before_its_death(client, task("patient", tmp_path / "never")))
    await until(lambda: _in_flight(client, 3))
    calls["behind"] = asyncio.create_task(outcome(client, task("brief", files["behind"])))
    await until(lambda: _waiting(client, 1))
    health = await client.health()
    before = health.replica
    await asyncio.to_thread(deployed)
    assert (await calls["behind"]).causes == ["recalled"], "no handler had begun with it"
    interrupted = await calls["brief"]
    assert interrupted.causes == ["interrupted"]
    assert interrupted.errors == ["the replica was taken down before the task ended"]
    assert Path(f"{files['brief']}-cut").exists(), "its handler was told"
    await until(lambda: _is_another(client, before), patience=60)
    assert not calls["patient"].done(), "its organ gives it a minute"
    files["patient"].touch()
    assert (await calls["patient"]).causes == ["completed"]
    assert health.pid is not None
    os.kill(health.pid, signal.SIGKILL)
    assert await asyncio.wait_for(killed, 60), "it said so before it died"


async def _in_flight(client: OrganismClient, number: int) -> bool:
    with suppress(OrganismUnavailable):
        [replica] = await client.running()
        return bool(sum(organ["in_flight"] for organ in replica["organs"].values()) == number)
    return False


async def _waiting(client: OrganismClient, number: int) -> bool:
    [replica] = await client.running()
    return bool(sum(organ["waiting"] for organ in replica["organs"].values()) == number)


async def _is_another(client: OrganismClient, before: str | None) -> bool:
    with suppress(OrganismUnavailable):  # on a machine that is busy with other things
        return bool((await client.health()).replica != before)
    return False
