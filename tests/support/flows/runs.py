"""Runs as Prefect knows them."""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterId


async def dispatch_runs() -> list[Any]:
    """Flow runs of dispatch, the newest last."""
    async with get_client() as client:
        found = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["dispatch"])), limit=200
        )
    return sorted(found, key=lambda run: run.created)


async def lane_runs() -> dict[str, Any]:
    """Task runs of the newest dispatch run, by name."""
    run = (await dispatch_runs())[-1]
    async with get_client() as client:
        found = await client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])), limit=200
        )
    return {task_run.name: task_run.state for task_run in found}
