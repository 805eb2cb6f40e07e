"""The page of a dispatch run while it runs: how far it is, and what its failures lead to."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.dispatch import dispatch
from organism_flows.flows.supervision import supervisor
from tests.support.flows.artifacts import artifacts_of, newest_run
from tests.support.stack import Stack, until

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

    async def told() -> Any:
        names = EventNameFilter(name=["organism.dispatch.dead-lettered"])
        async with get_client() as client:
            found = (await client.read_events(EventFilter(event=names), limit=50)).events
        return [event for event in found if "no.such.__type__" in event.payload["by_type"]]

    [event] = await until(told)
    assert event.resource.id == "organism.queue.default"
    assert event.payload == {"tasks": 1, "by_type": {"no.such.__type__": 1}}
