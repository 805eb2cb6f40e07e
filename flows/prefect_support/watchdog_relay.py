"""Relay of watchdog runs: which run goes on checking, how it is relieved, and how a dead one is replaced."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow

from organism_flows.blocks.errors import PrefectUnavailable
from organism_flows.flows.prefect_support.server import prefect_client

WATCHDOG = "watchdog/organism"
LONGEST_S = 3600.0
"""Longest time that a run repeats its check, in seconds. The schedule starts a run every ten minutes."""
TIMEOUT_S = 5.0
"""Longest wait for Prefect's server, in seconds. Without an answer the run goes on."""


def seconds_to_go_on(parameters: Mapping[str, Any], *, auto_scheduled: bool) -> float:
    """Return how long a run repeats its check, in seconds; 0 if it checks once."""
    asked: float | None = parameters.get("for_seconds")
    if asked is not None:
        return asked
    return LONGEST_S if auto_scheduled else 0.0


class Relay:
    """Decides when ``run`` leaves: when another run takes over, or its schedule is turned off.

    Args:
        run: The flow run that checks. A run without a deployment is never relieved.
    """

    def __init__(self, run: FlowRun | None) -> None:
        self._run = run
        self._began: datetime | None = None
        self._schedule_was_on = False

    async def reason_to_leave(self) -> str | None:
        """Return why the run must leave, or `None` if it goes on, as it does if no server answers."""
        run = self._run
        if run is None or run.deployment_id is None:
            return None
        try:
            async with prefect_client(TIMEOUT_S) as client:
                # As the server has it, which compares it with that of others.
                self._began = self._began or (await client.read_flow_run(run.id)).start_time
                if younger := await _younger_run(client, run.id, run.deployment_id, self._began):
                    return f"relieved by {younger.name}"
                on = _schedule_is_on(await client.read_deployment(run.deployment_id))
        except PrefectUnavailable:
            return None
        if self._schedule_was_on and not on:
            return "its schedule was turned off"
        self._schedule_was_on = on
        return None


async def _younger_run(
    client: PrefectClient, run: UUID, deployment: UUID, began: datetime | None
) -> FlowRun | None:
    """Return a run of the deployment that began after ``run`` and repeats its check as well, or `None`."""
    others = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
            start_time=FlowRunFilterStartTime(after_=began),
        )
    )
    for other in others:
        if other.id != run and seconds_to_go_on(other.parameters, auto_scheduled=bool(other.auto_scheduled)):
            return other
    return None


def _schedule_is_on(deployment: DeploymentResponse) -> bool:
    return not deployment.paused and any(schedule.active for schedule in deployment.schedules)


async def start_watchdog() -> str | None:
    """Start a run that repeats its check, if the schedule is on. Its next run may be ten minutes away.

    Returns:
        The name of the run; `None` if the schedule is off or there is no such deployment.

    Raises:
        Exception: Any error of Prefect's client.
    """
    async with get_client() as client:
        try:
            deployment = await client.read_deployment_by_name(WATCHDOG)
        except ObjectNotFound:
            return None
        return await _start(client, deployment, {})


async def replace_crashed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Start another run in place of a repeating run that died. A run that was cancelled is not replaced.

    This is a hook of the flow. After a ``kill -9`` of the flow's process, the worker calls it.
    """
    if flow_run.deployment_id is None:
        return
    if not seconds_to_go_on(flow_run.parameters, auto_scheduled=bool(flow_run.auto_scheduled)):
        return
    try:
        async with prefect_client(TIMEOUT_S) as client:
            states = await client.read_flow_run_states(flow_run.id)
            if any(s.type in (StateType.CANCELLING, StateType.CANCELLED) for s in states):
                return
            await _start(client, await client.read_deployment(flow_run.deployment_id), flow_run.parameters)
    except PrefectUnavailable:
        return  # The schedule starts the next.


async def _start(
    client: PrefectClient, deployment: DeploymentResponse, parameters: Mapping[str, Any]
) -> str | None:
    if not _schedule_is_on(deployment):
        return None
    run = await client.create_flow_run_from_deployment(
        deployment.id, parameters={**parameters, "for_seconds": parameters.get("for_seconds") or LONGEST_S}
    )
    return run.name
