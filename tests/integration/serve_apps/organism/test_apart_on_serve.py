"""Organs with deployments of their own, and the drift valve, on a real Serve: an app beside the stack's."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
import ray
from ray import serve
from ray.serve._private.common import ReplicaState
from ray.serve.api import _run

from organism_flows.blocks.organism_client import OrganismClient
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.queue import Batch, Outcomes, Queue
from organism_flows.blocks.queue.models.operations import NewTask
from organism_flows.flows.lanes.lane import Lane
from organism_flows.serve_apps.organism.app import BuildArgs, build
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack]
APP = "apart"
CONFIG = Path(__file__).parents[3] / "organism" / "apart.yaml"
CLAIMS = count(2_000_000)


def tasks(*rows: tuple[str, dict[str, Any]], drift: float = 0.0) -> Batch:
    made = Batch()
    for kind, params in rows:
        one = Batch(
            [f"task-{len(made)}"], [next(CLAIMS)], [1], [kind], [orjson.dumps(params).decode()],
            [None], [None], [drift], [None], [0], [False], [None],
        )  # fmt: skip
        made.extend(one)
    return made


async def outcomes_of(client: OrganismClient, batch: Batch) -> Outcomes:
    ended = Outcomes()
    async for outcomes in client.call(batch):
        ended.extend(outcomes)
    assert sorted(ended.positions) == list(range(len(batch)))
    return ended


def replicas(deployment: str) -> int:
    found = serve.status().applications[APP].deployments[deployment].replica_states
    return found.get(ReplicaState.RUNNING, 0)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(stack: Stack) -> OrganismClient:
    """Of the app, deployed by the first test that asks for it."""
    await RayCluster().connect()
    if APP not in serve.status().applications:
        app = build(BuildArgs(config=CONFIG))
        await asyncio.to_thread(_run, app, name=APP, route_prefix="/apart", _blocking=True)
    return OrganismClient(APP)


async def test_an_organ_apart_runs_in_processes_of_its_own(client: OrganismClient) -> None:
    rows: list[tuple[str, dict[str, Any]]] = [("mortal", {"seconds": 0.1})] * 20 + [("echo", {"n": 1})]
    ended = await outcomes_of(client, tasks(*rows))
    assert set(ended.causes) == {"completed"}
    results = dict(zip(ended.positions, map(orjson.loads, filter(None, ended.results)), strict=True))
    pids = {results[n]["pid"] for n in range(20)}
    assert len(pids) == 2, "Serve shares the work out"
    assert results[20] == {"n": 1}
    assert (await client.health()).pid not in pids


@pytest.mark.parametrize(
    ("kind", "charged"),
    [
        ("mortal", "WorkerProcessDied: the worker process died: exited with code 1"),
        (
            "mortal.shared",
            "ran as the only suspect on a replica, and a replica of organ-shared (app apart) died",
        ),
    ],
)
async def test_a_task_that_ends_a_replica_apart_is_charged_and_its_neighbours_are_not(
    client: OrganismClient, kind: str, charged: str
) -> None:
    before = (await client.health()).pid
    rows: list[tuple[str, dict[str, Any]]] = [(kind, {"seconds": 0.5})] * 12
    rows[5] = (kind, {"seconds": 0.1, "die": True})
    batch = tasks(*rows)
    failed: list[str | None] = []
    lost = 0
    for _ in range(20):
        ended = await outcomes_of(client, batch)
        failed += [e for e, cause in zip(ended.errors, ended.causes, strict=True) if cause == "failed"]
        left = [p for p, cause in zip(ended.positions, ended.causes, strict=True) if cause == "replica_lost"]
        if not left:
            break
        lost += 1
        # As a lane does: once more, under new claims.
        batch = batch.take(left)
        batch.suspicions = [n + 1 for n in batch.suspicions]
        batch.claims = [next(CLAIMS) for _ in left]
    assert [error.startswith(charged) for error in failed if error] == [True]
    assert lost >= 1, "nobody is charged for the first death"
    assert (await client.health()).pid == before, "no replica of the manager died of it"


async def test_a_process_that_ends_is_charged_to_its_task_and_the_replica_goes_on(
    client: OrganismClient,
) -> None:
    before = (await client.health()).pid
    rows: list[tuple[str, dict[str, Any]]] = [("compute", {"n": n, "die": n == 4}) for n in range(12)]
    ended = await outcomes_of(client, tasks(*rows))
    found = dict(
        zip(ended.positions, zip(ended.causes, ended.results, ended.errors, strict=True), strict=True)
    )
    cause, _, error = found.pop(4)
    assert (cause, error) == ("failed", "WorkerProcessDied: the worker process died: exited with code 13")
    results = {n: orjson.loads(result or "") for n, (_, result, _) in found.items()}
    assert {n: result["square"] for n, result in results.items()} == {n: n * n for n in results}
    pids = {result["pid"] for result in results.values()}
    assert before not in pids
    assert len(pids) <= 3, "processes are used again"
    assert (await client.health()).pid == before


@pytest.mark.soak
async def test_replicas_of_an_organ_come_with_the_work_and_go_with_it(
    client: OrganismClient, stack_queue: Queue, tmp_path: Path
) -> None:
    """From the queue, through a lane: what it claims follows what there is to run on."""
    tmp_path.chmod(0o777)
    await until(lambda: replicas("organ-scaled") == 0)
    go = tmp_path / "go"
    lane = Lane(stack_queue, client, until_empty=True)
    await stack_queue.submit([NewTask(type="scaled", params={"until": str(go)})] * 40)
    running = asyncio.create_task(lane.run())
    await until(lambda: replicas("organ-scaled") == 3)
    status = await client.status()
    assert status.organs["scaled"].in_flight >= 1
    go.touch()
    assert (await running).completed == 40
    await until(lambda: replicas("organ-scaled") == 0)


async def test_all_replicas_share_one_valve_and_go_on_without_it(client: OrganismClient) -> None:
    async def path(drift: float) -> str:
        return (await outcomes_of(client, tasks(("echo", {}), drift=drift))).paths[0]

    # 0.5, 1.0, 1.5: one sum, whichever replica is asked.
    assert [await path(0.6) for _ in range(3)] == ["fast", "fast", "escalated"]
    valve = serve.get_deployment_handle("DriftValve", app_name=APP)
    assert [(one["type"], one["sum"]) for one in await valve.sums.remote()] == [("echo", 1.5)]
    assert await path(0.1) == "escalated"
    assert await valve.reset.remote("echo", None) == 1
    assert await path(0.6) == "fast"
    [actor] = [
        one["name"]
        for one in ray.util.list_named_actors(all_namespaces=True)
        if "#DriftValve#" in one["name"]
    ]
    ray.kill(ray.get_actor(actor, namespace="serve"))
    assert await path(0.6) == "fast"
    await until(lambda: replicas("DriftValve") == 1)


async def test_a_cancelled_task_is_stopped_on_the_replica_apart(
    client: OrganismClient, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    cut = tmp_path / "cut"
    batch = tasks(("scaled", {"until": str(tmp_path / "never"), "cancelled": str(cut)}))
    causes = []
    async for outcomes in client.call(batch):
        causes += outcomes.causes
        if not causes and not outcomes.waiting and not len(outcomes):
            await client.cancel(dict(zip(batch.ids, batch.claims, strict=True)))
    assert causes == ["cancelled"]
    await until(cut.exists)


async def test_the_app_can_be_taken_down(client: OrganismClient) -> None:
    await asyncio.to_thread(serve.delete, APP)
    assert APP not in serve.status().applications


async def test_tasks_of_one_key_go_where_its_model_is(client: OrganismClient) -> None:
    """Four models on two replicas with room for two each: soon no task loads one any more."""

    async def loads(rounds: int) -> int:
        loaded = 0
        for key in "abcd" * rounds:
            batch = tasks(("models", {}))
            batch.keys = {batch.claims[0]: key}
            name, of_serve, first = orjson.loads((await outcomes_of(client, batch)).results[0] or "")
            assert name == of_serve == key
            loaded += first
        return loaded

    assert await loads(1) == 4

    async def settled() -> bool:
        return await loads(3) == 0

    await until(settled)
    assert await loads(5) == 0
