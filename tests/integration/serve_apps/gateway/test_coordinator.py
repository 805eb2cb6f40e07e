"""The organism through the gateway: how it is, tasks straight to it, and life without it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from organism_flows.blocks.local_stack.stack_state import STATE_FILE, StackState
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.queue import Queue
from organism_flows.serve_apps.gateway import organism_link as module
from tests.support.gateway.problems import check_problem
from tests.support.gateway.running import Gateway, running
from tests.support.scripted_organism import ScriptedOrganism
from tests.support.stack import Stack, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def fresh_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEALTH_KEPT_S", 0.0)


async def post(gateway: Gateway, **task: Any) -> Any:
    return await gateway.http.post("/coordinator/submit", json={"type": "t", **task})


async def test_a_task_goes_straight_to_the_organism_and_nowhere_else(database: str) -> None:
    organism = ScriptedOrganism()
    async with running(database, organism=organism) as gateway:
        answer = await post(gateway, params={"n": 1}, domain="d", deadline_s=5)
        assert (answer.status_code, answer.json()["result"]) == (200, {"n": 1})
        assert organism.tasks == [{"type": "t", "params": {"n": 1}, "domain": "d", "drift_score": 0.0}]
        assert (await gateway.http.get("/api/tasks")).json()["tasks"] == []
        for wrong in ({"priority": 1}, {"deadline_s": 0}, {"deadline_s": 301}, {"type": ""}, {"params": "x"}):
            assert check_problem(await post(gateway, **wrong)).status == 422
        assert len(organism.tasks) == 1


async def test_one_call_too_many_is_turned_away_and_a_place_comes_free_again(database: str) -> None:
    organism = ScriptedOrganism()
    organism.taking.clear()
    async with running(database, organism=organism, gateway_calls=2) as gateway:
        calls = [asyncio.create_task(post(gateway)) for _ in range(2)]
        await until(lambda: len(organism.tasks) == 2)
        answer = await post(gateway)
        assert check_problem(answer).type == "urn:organism:busy"
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        gateway.on_its_loop(organism.taking.set)
        assert [(await call).status_code for call in calls] == [200, 200]
        assert (await post(gateway)).status_code == 200
        organism.busy = True
        assert check_problem(await post(gateway)).type == "urn:organism:busy"


async def test_after_its_deadline_a_call_is_stopped(database: str) -> None:
    organism = ScriptedOrganism()
    organism.taking.clear()
    async with running(database, organism=organism, gateway_calls=1) as gateway:
        answer = await post(gateway, deadline_s=0.05)
        assert (answer.status_code, check_problem(answer).type) == (504, "urn:organism:deadline")
        await until(lambda: organism.given_up == 1)
        gateway.on_its_loop(organism.taking.set)
        assert (await post(gateway)).status_code == 200, "its place is free again"


async def test_without_the_organism_the_queue_goes_on(database: str) -> None:
    organism = ScriptedOrganism()
    async with running(database, organism=organism) as gateway:
        assert (await gateway.http.get("/readyz")).json() == {"status": "ok", "reason": None}
        health = await gateway.http.get("/coordinator/health")
        assert (health.status_code, health.json()["organism"]["status"]) == (200, "healthy")
        organism.away = True
        ready = await gateway.http.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "degraded", "reason": "it is gone"})
        health = await gateway.http.get("/coordinator/health")
        assert health.status_code == 503
        assert health.json() == {"status": "unhealthy", "reason": "it is gone", "organism": None}
        assert check_problem(await post(gateway)).type == "urn:organism:no-organism"
        [task_id] = await gateway.submit()
        why = (await gateway.http.get(f"/api/tasks/{task_id}/why")).json()
        assert why["reason"] == "no_lane"
        organism.away = False
        assert (await gateway.http.get("/readyz")).json()["status"] == "ok"


async def test_an_unhealthy_organism_says_why(database: str) -> None:
    async with running(database, organism=ScriptedOrganism(problem="it hangs")) as gateway:
        health = await gateway.http.get("/coordinator/health")
        assert (health.status_code, health.json()["reason"]) == (503, "it hangs")


async def test_an_organism_nobody_names_is_said_to_be_so(gateway: Gateway) -> None:
    reason = (await gateway.http.get("/readyz")).json()["reason"]
    assert "it is not known where the organism is" in reason
    assert "ORGANISM_URL" in (check_problem(await post(gateway)).next_step or "")


async def test_an_organism_that_is_started_later_is_found(database: str, tmp_path: Path) -> None:
    async with running(database, home=tmp_path) as gateway:
        assert "it is not known where" in (await gateway.http.get("/coordinator/health")).json()["reason"]
        stack = StackState(
            home=tmp_path,
            stack_id="s",
            dsn="",
            ray_address="",
            ray_token_path=tmp_path,
            ray_dashboard_url="",
            prefect_api_url="",
            prefect_ui_url="",
            organism_url="http://127.0.0.1:9/organism",
            processes={},
        )
        (tmp_path / STATE_FILE).write_text(stack.model_dump_json())
        reason = (await gateway.http.get("/coordinator/health")).json()["reason"]
        assert "http://127.0.0.1:9/organism/health" in reason
        (tmp_path / STATE_FILE).write_text("{")
        reason = (await gateway.http.get("/coordinator/health")).json()["reason"]
        assert STATE_FILE in reason, "a file that cannot be read is named"


async def test_an_address_where_nobody_listens_is_named(database: str) -> None:
    async with running(database, url="http://127.0.0.1:9/organism") as gateway:
        reason = (await gateway.http.get("/coordinator/health")).json()["reason"]
        assert "http://127.0.0.1:9/organism/health" in reason


@pytest.mark.stack
async def test_the_real_organism(stack: Stack, database: str) -> None:
    async with running(database, url=stack.state.organism_url, home=stack.home) as gateway:
        health = await gateway.http.get("/coordinator/health")
        assert (health.status_code, health.json()["status"]) == (200, "healthy"), health.text
        assert health.json()["organism"]["organism_initialized"]
        done = (await post(gateway, type="echo", params={"n": 1})).json()
        assert (done["success"], done["result"]) == (True, {"n": 1})
        failed = (await post(gateway, type="no.such.type")).json()
        assert (failed["success"], failed["retryable"]) == (False, False)
        assert "no organ serves" in failed["error"]
        [task_id] = await gateway.submit({"type": "no.such.type"})
        assert (await gateway.http.get(f"/api/tasks/{task_id}/why")).json()["reason"] == "no_organ"


@pytest.mark.stack
async def test_the_gateway_as_an_ingress_of_serve(stack: Stack, stack_queue: Queue) -> None:
    from ray import serve

    from organism_flows.serve_apps.gateway.ingress import IngressArgs, build

    await RayCluster().connect()
    url = f"{stack.state.organism_url.removesuffix('/organism')}/gateway"
    await asyncio.to_thread(serve.run, build(IngressArgs()), name="gateway", route_prefix="/gateway")
    try:
        async with httpx.AsyncClient(
            base_url=url, headers=stack.headers, trust_env=False, timeout=30
        ) as http:
            made = await http.post("/api/tasks", json={"type": "no.such.type"})
            assert made.status_code == 201, made.text
            [task] = made.json()["tasks"]
            assert made.headers["Location"] == f"/gateway/api/tasks/{task['id']}"
            assert (await stack_queue.get(task["id"])).status == "queued"
            assert (await http.get(f"/api/tasks/{task['id']}/why")).json()["reason"] == "no_organ"
            assert (await http.get("/readyz")).json()["status"] == "ok"
            done = await http.post("/coordinator/submit", json={"type": "echo", "params": {"n": 1}})
            assert done.json()["result"] == {"n": 1}, done.text
            assert "organism_organ_in_flight{" in (await http.get("/metrics")).text
            elsewhere = await http.get("/api/tasks", headers={"Host": "elsewhere.example"})
            assert elsewhere.status_code == 403
    finally:
        await asyncio.to_thread(serve.delete, "gateway")
