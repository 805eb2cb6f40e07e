"""The organism as deployed on a real Ray Serve: its handle methods and its HTTP routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import orjson
import pytest
import ray
from ray import serve
from ray.serve.api import _run

from organism_flows.blocks.errors import OrganismUnavailable, ReplicaLost
from organism_flows.blocks.organism_client import OrganismClient
from organism_flows.blocks.prefect_blocks.organism import Organism
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.queue import Batch
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack]
Calling: TypeAlias = Callable[[Organism], Awaitable[OrganismClient]]
CLAIMS = count(1_000_000)
OUTCOME_FIELDS = {
    "task_id",
    "success",
    "result",
    "error",
    "retryable",
    "path",
    "organ_id",
    "elapsed_ms",
}


def make_batch(types: list[str], params: list[str]) -> Batch:
    size = len(types)
    return Batch(
        ids=[str(n) for n in range(size)],
        claims=[next(CLAIMS) for _ in range(size)],
        attempts=[1] * size,
        types=types,
        params=params,
        descriptions=[None] * size,
        domains=[None] * size,
        drift_scores=[0.0] * size,
        timeouts=[None] * size,
        suspicions=[0] * size,
        reclaimed=[False] * size,
        checkpoints=[None] * size,
    )


@pytest.fixture
async def handle(stack: Stack) -> Any:
    await RayCluster().connect()
    assert ray.is_initialized()
    return serve.get_deployment_handle("OrganismManager", app_name="organism")


@pytest.fixture(params=["thread", "this loop"])
async def calling(request: pytest.FixtureRequest, handle: Any) -> AsyncIterator[Calling]:
    """Returns a client, whose calls are routed in Serve's thread or in the loop of the test."""
    async with AsyncExitStack() as stack:

        async def client_of(organism: Organism) -> OrganismClient:
            client = organism.client()
            if request.param == "this loop":
                await stack.enter_async_context(client.in_this_loop())
            return client

        yield client_of


async def test_one_task_through_the_handle(handle: Any) -> None:
    outcome = await handle.handle_incoming_task.remote({"task_id": "t", "type": "echo", "params": {"n": 1}})
    assert set(outcome) == OUTCOME_FIELDS
    assert (outcome["task_id"], outcome["success"], outcome["result"]) == ("t", True, {"n": 1})
    outcome = await handle.handle_incoming_task.remote({"task_id": "t", "type": "nope"})
    assert (outcome["success"], outcome["retryable"]) == (False, False)


async def test_health_and_status_through_the_client(calling: Calling) -> None:
    client = await calling(Organism())
    health = await client.health()
    assert health.status == "healthy"
    assert health.organism_initialized is True
    assert "evidence" in ((await client.status()).task_types or [])


async def test_a_batch_through_the_client(calling: Calling) -> None:
    size = 300
    batch = make_batch(["echo"] * (size - 1) + ["nope"], ['{"n": 1}'] * size)
    chunks = [chunk async for chunk in (await calling(Organism())).call(batch)]
    causes = {p: cause for chunk in chunks for p, cause in zip(chunk.positions, chunk.causes, strict=True)}
    assert len(causes) == size
    assert causes.pop(size - 1) == "rejected"
    assert set(causes.values()) == {"completed"}


async def test_an_empty_batch_is_answered_every_time(calling: Calling) -> None:
    client = await calling(Organism())
    for _ in range(200):
        assert [len(chunk) async for chunk in client.call(Batch())] == [0]


async def test_a_silent_replica_may_have_run_what_it_took(calling: Calling, tmp_path: Path) -> None:
    batch = make_batch(["slow"], [orjson.dumps({"until": str(tmp_path / "never")}).decode()])
    with pytest.raises(ReplicaLost, match=r"no sign of life for 0\.5 s"):  # it gives one every 2 s
        async for _ in (await calling(Organism(silence_s=0.5))).call(batch):
            pass


@serve.deployment(ray_actor_options={"resources": {"not on any node": 1}}, graceful_shutdown_timeout_s=0)
class NeverReady:
    pass


async def test_what_no_replica_took_has_not_run(calling: Calling) -> None:
    # A class to the type checker, though `serve.deployment` has made a deployment of it.
    deployment: Any = NeverReady
    await asyncio.to_thread(_run, deployment.bind(), name="never", route_prefix=None, _blocking=False)
    try:
        organism = Organism(app_name="never", deployment_name="NeverReady", silence_s=1)
        with pytest.raises(OrganismUnavailable, match="no sign of life for 1 s"):
            async for _ in (await calling(organism)).call(make_batch(["echo"], ["{}"])):
                pass
    finally:
        await asyncio.to_thread(serve.delete, "never", _blocking=False)


async def test_megabytes_go_there_and_back(calling: Calling) -> None:
    params = [orjson.dumps({"n": n, "text": "x" * 900_000}).decode() for n in range(12)]
    batch = make_batch(["echo"] * 12, params)
    results: dict[int, str | None] = {}
    async for outcomes in (await calling(Organism())).call(batch):
        results |= dict(zip(outcomes.positions, outcomes.results, strict=True))
    assert [results[n] for n in range(12)] == params


async def test_a_task_is_cancelled_through_the_client_and_its_handler_sees_it(
    calling: Calling, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    client = await calling(Organism())
    names = [str(tmp_path / name) for name in ("until-0", "until-1")]
    batch = make_batch(
        ["slow"] * 2,
        [orjson.dumps({"until": name, "cancelled": f"{name}-cut"}).decode() for name in names],
    )
    causes: dict[int, str] = {}
    async for outcomes in client.call(batch):
        if not len(outcomes) and not causes:
            assert outcomes.timeout_s == 120
            await client.cancel({batch.ids[0]: batch.claims[0]})
        causes.update(zip(outcomes.positions, outcomes.causes, strict=True))
        if causes == {0: "cancelled"}:
            await until(lambda: Path(f"{names[0]}-cut").exists())
            assert Path(f"{names[0]}-cut").read_text() == str(batch.claims[0])
            Path(names[1]).touch()
    assert causes == {0: "cancelled", 1: "completed"}
    await client.cancel(dict(zip(batch.ids, batch.claims, strict=True)))  # nobody knows them any more


def test_the_http_routes(stack: Stack) -> None:
    url = stack.state.organism_url
    with httpx.Client(base_url=url, headers=stack.headers, trust_env=False) as client:
        assert client.get("/health").json()["organism_initialized"] is True
        assert "echo" in client.get("/status").json()["task_types"]
        answer = client.post("/handle-task", json={"task_id": "t", "type": "echo", "params": {"n": 1}})
        assert answer.status_code == 200
        assert answer.json()["result"] == {"n": 1}
        nan = b'{"type": "echo", "params": {"n": NaN}}'
        for bad in (b"{", b"[]", b'{"type": 1}', b"\xff", nan):
            answer = client.post("/handle-task", content=bad, headers={"content-type": "application/json"})
            assert answer.status_code == 422, bad
            assert answer.json()["error"]
        answer = client.post("/handle-task", json={"type": "echo", "params": {"n": "x" * 10_000_000}})
        assert answer.status_code == 413
        assert "more than the limit of 10,000,000" in answer.json()["error"]


def test_without_the_token_its_routes_are_closed(stack: Stack) -> None:
    with httpx.Client(base_url=stack.state.organism_url, trust_env=False) as client:
        assert client.get("/health").json() == {"status": "healthy", "organism_initialized": True}
        task = {"type": "echo", "params": {}}
        for headers in ({}, {"authorization": "Bearer wrong"}):
            for path in ("/status", "/running", "/organs-apart", "/drift", "/openapi.json", "/docs", "/x"):
                answer = client.get(path, headers=headers)
                assert answer.status_code == 401, path
                assert "ORGANISM_TOKEN" in answer.json()["error"]
            for path in ("/handle-task", "/drain-limit?within_s=0", "/drift/reset", "/health"):
                assert client.post(path, json=task, headers=headers).status_code == 401, path
        for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
            for token in ({}, stack.headers):
                assert client.get("/health", headers={**headers, **token}).status_code == 403
        form = {"content-type": "text/plain", **stack.headers}
        assert client.post("/handle-task", content=b'{"type": "echo"}', headers=form).status_code == 415


async def test_a_call_that_is_cut_off_stops_on_the_replica_whenever_that_is(
    calling: Calling, tmp_path: Path
) -> None:
    client = await calling(Organism())
    batch = make_batch(["slow"], [orjson.dumps({"until": str(tmp_path / "never")}).decode()])

    async def call() -> None:
        async for _ in client.call(batch):
            pass

    for tenth_ms in range(60):
        cut = asyncio.create_task(call())
        await asyncio.sleep(tenth_ms / 10000)
        cut.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut

    async def nothing_runs() -> bool:
        loads = [report["organs"]["slow"] for report in await client.running()]
        return not any(load["in_flight"] or load["waiting"] or load["lingering"] for load in loads)

    await until(nothing_runs)
