"""Starts dispatch when its schedule is on and no lane claims tasks, before the schedule's next run is due.

The process of a dispatch run can die without reporting it. The leases of its lanes then expire, and the
watchdog is the first to see that no lane claims tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel

from organism_flows.blocks.errors import PrefectUnavailable
from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.flows.alerting.checks import DISPATCH
from organism_flows.flows.prefect_support.server import prefect_client

BEGINS_WITHIN_S = 60.0
"""Time in which a run starts its lanes, in seconds. A younger run may still do so."""
TIMEOUT_S = 15.0
PAGE = 50


class Restart(BaseModel):
    """Result of checking whether dispatch has to be started."""

    run: str | None = None
    """Name of the flow run that was created; `None` if none was needed or there was an error."""
    trouble: str | None = None
    """Why Prefect could not be asked or the run not be created; `None` if there was no error."""


async def start_missing_dispatch(lanes: Sequence[LaneRow], queue: str) -> Restart:
    """Start a run of dispatch if no lane claims tasks and a schedule that is on starts relays.

    Args:
        lanes: All lanes of the queue.
        queue: Name of its Task Queue block.

    Returns:
        The run that was created, or why it could not be. Errors of Prefect are not raised.
    """
    if any(lane.claiming for lane in lanes):
        return Restart()
    try:
        async with prefect_client(TIMEOUT_S) as client:
            return Restart(run=await _start(client, queue))
    except PrefectUnavailable as error:
        return Restart(trouble=f"dispatch was not started: {error.what}")


async def _start(client: PrefectClient, queue: str) -> str | None:
    try:
        deployment = await client.read_deployment_by_name(DISPATCH)
    except ObjectNotFound:
        return None
    parameters = _relay_parameters(deployment, queue)
    if parameters is None or await _is_about_to_begin(client, deployment):
        return None
    run = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    return run.name


def _relay_parameters(deployment: DeploymentResponse, queue: str) -> dict[str, Any] | None:
    """Return the parameters of the first schedule that is on and starts relays for this queue, or `None`."""
    if deployment.paused:
        return None
    for schedule in deployment.schedules:
        own = dict(schedule.parameters or {})
        parameters = {**(deployment.parameters or {}), **own}
        if (
            schedule.active
            and parameters.get("relay") is True
            and parameters.get("queue", "default") == queue
        ):
            return own
    return None


async def _is_about_to_begin(client: PrefectClient, deployment: DeploymentResponse) -> bool:
    """Return True if a run waits for a worker, or has begun so recently that it may still start its lanes."""
    now = datetime.now(UTC)

    async def newest(*states: StateType, **others: Any) -> list[FlowRun]:
        wanted = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
            **others,
        )
        return await client.read_flow_runs(
            flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=PAGE
        )

    # If no worker has taken a run that is due, another run would only wait behind it.
    if await newest(StateType.SCHEDULED, expected_start_time=FlowRunFilterExpectedStartTime(before_=now)):
        return True
    begun = await newest(StateType.PENDING, StateType.RUNNING)
    young = timedelta(seconds=BEGINS_WITHIN_S)
    return any(run.state is not None and now - run.state.timestamp < young for run in begun)
