"""The page of a dispatch run while it runs: how far it is, and what its failures lead to."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.dispatch import dispatch
from organism_flows.flows.supervision import supervisor
from tests.support.flows.artifacts import artifacts_of, newest_run
from tests.support.stack import PATIENCE, Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack, pytest.mark.usefixtures("sender")]


async def test_progress_moves_and_failures_lead_to_their_tasks(
    stack: Stack, stack_queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PROGRESS_INTERVAL_S", 0.0)
    opened = tmp_path / "opened"
    tasks = [NewTask(type="slow", params={"until": str(opened)}) for _ in range(25)]
    tasks += [NewTask(type="echo") for _ in range(74)] + [NewTask(type="no.such.__type__")]
    bad = (await stack_queue.submit(tasks))[-1]
    running = asyncio.create_task(dispatch(until_empty=True))

    async def progress() -> Any:
        run = await newest_run()
        return (await artifacts_of(run.id)).get("dispatch-progress") if run else None

    async def is_at(percent: float) -> bool:
        return bool((bar := await progress()) and bar.data == percent)

    await until(lambda: is_at(75.0))
    assert (await progress()).description == "25 tasks to go"
    await check_the_board_leads_to_the_run(stack)
    opened.touch()
    await running
    assert await is_at(100.0)
    assert (await progress()).description == "99 completed, 1 dead letters"

    artifacts = await artifacts_of((await newest_run()).id)
    [row] = json.loads(artifacts["dispatch-failures"].data)
    board = f"{stack.state.gateway_url}/#"
    assert row["task"] == f"[{bad}]({board}/tasks/{bad})", "the board asks a browser to sign in"
    assert row["type"] == rf"[no.such.\_\_type\_\_]({board}/failures?type=no.such.__type__)"
    assert f"({board}/failures)" in (artifacts["dispatch-failures"].description or "")

    async with gateway_of(stack) as gateway:
        assert (await gateway.get("/")).status_code == 200
        assert (await gateway.get(f"/api/tasks/{bad}")).json()["status"] == "failed"
        failures = (await gateway.get("/api/failures", params={"type": "no.such.__type__"})).json()
        assert [group["sample"] for group in failures["groups"]] == [str(bad)]

    async def told() -> Any:
        names = EventNameFilter(name=["organism.dispatch.dead-lettered"])
        async with get_client() as client:
            found = (await client.read_events(EventFilter(event=names), limit=50)).events
        return [event for event in found if "no.such.__type__" in event.payload["by_type"]]

    [event] = await until(told)
    assert event.resource.id == "organism.queue.default"
    assert event.payload == {"tasks": 1, "by_type": {"no.such.__type__": 1}}


def gateway_of(stack: Stack) -> httpx.AsyncClient:
    url = str(stack.state.gateway_url)
    return httpx.AsyncClient(base_url=url, headers=stack.headers, trust_env=False, timeout=PATIENCE)


async def check_the_board_leads_to_the_run(stack: Stack) -> None:
    """While its lane runs: what the board shows of the lane, and where its links lead."""
    run = await newest_run()
    async with gateway_of(stack) as gateway:

        async def lane_with_a_window() -> Any:
            overview = (await gateway.get("/api/overview")).json()
            lanes = [lane for lane in overview["queue"]["lanes"] if lane["run"] == str(run.id)]
            shown = [lane for lane in lanes if lane["held"] >= 1 and "slow" in lane["windows"]]
            return (overview, shown[0]) if shown else None

        overview, lane = await until(lane_with_a_window)
        assert lane["windows"]["slow"] >= 1

        async def held() -> set[str]:
            found = (await gateway.get("/api/tasks", params={"run": lane["run"]})).json()["tasks"]
            return {task["type"] for task in found}

        assert await until(held) == {"slow"}
    assert overview["prefect_url"] == stack.state.prefect_api_url.removesuffix("/api")
    async with get_client() as client:
        assert (await client.read_flow_run(run.id)).name.startswith("dispatch · ")
