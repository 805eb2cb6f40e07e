"""Runs and what they leave in Prefect."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
)
from prefect.client.schemas.objects import StateType

from tests.support.flows.moments import known


async def newest_run() -> Any:
    async with get_client() as client:
        runs = await client.read_flow_runs(limit=200)
    # Not those of a schedule that wait, which tests before this one may have left.
    begun = [run for run in runs if run.state_type != StateType.SCHEDULED]
    return max(begun, key=lambda run: known(run.created), default=None)


async def artifacts_of(run: UUID) -> dict[str | None, Any]:
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        )
    return {artifact.key: artifact for artifact in found}
