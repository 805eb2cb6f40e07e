"""Schedules of our deployments: people turn them on and off, and applying deployments keeps their state."""

from __future__ import annotations

import json
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import IntervalSchedule
from pydantic import BaseModel

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.flows.prefect_support.states import ORGANISM_TAG

RENAMED = {"every-10-minutes": "every-30-seconds"}
"""Older slugs of schedules in prefect.yaml, by the slug of today: one that was turned off stays off."""
DEPLOYMENTS_LIMIT = 200
"""Upper bound on the deployments that the server lists at once."""


class ScheduleState(BaseModel):
    """Schedules of one deployment."""

    deployment: str
    """Flow and name, such as ``dispatch/organism``."""
    on: bool
    """True if the deployment starts by itself."""
    schedules: list[str]
    """All its schedules, such as ``every 300 s``."""


async def scheduled() -> list[ScheduleState]:
    """Return our deployments on the Prefect server. Those that start by themselves come first."""
    async with get_client() as client:
        found = await ours(client)
    every = [_scheduled(name, deployment) for name, deployment in found.items()]
    return sorted(every, key=lambda one: (not one.on, not one.schedules, one.deployment))


async def turn(flow: str, *, on: bool) -> ScheduleState:
    """Turn every schedule of a deployment on or off, and return its new state. Runs that have begun go on.

    Args:
        flow: Name of the flow, or flow and name of the deployment.
        on: True to turn them on.

    Raises:
        ConfigurationError: The server has no such deployment of ours, or it has no schedule.
    """
    async with get_client() as client:
        found = await ours(client)
        name = flow if "/" in flow else f"{flow}/organism"
        if name not in found:
            known = ", ".join(sorted(found)) or "none"
            raise ConfigurationError(
                f"no deployment {name} on this Prefect server (of ours: {known})",
                "`organism deploy` applies them",
            )
        deployment = found[name]
        if not deployment.schedules:
            raise ConfigurationError(
                f"{name} has no schedule", "add one in the Prefect UI, or start a run when one is due"
            )
        for schedule in deployment.schedules:
            await client.update_deployment_schedule(deployment.id, schedule.id, active=on)
        if on and deployment.paused:
            await client.resume_deployment(deployment.id)
        return _scheduled(name, (await ours(client))[name])


async def ours(client: PrefectClient) -> dict[str, DeploymentResponse]:
    """Return our deployments on the server, by flow and name."""
    found = await client.read_deployments(
        deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[ORGANISM_TAG])),
        limit=DEPLOYMENTS_LIMIT,
    )
    flows = {flow_id: (await client.read_flow(flow_id)).name for flow_id in {d.flow_id for d in found}}
    return {f"{flows[d.flow_id]}/{d.name}": d for d in found}


def as_left(file: dict[str, Any], there: dict[str, DeploymentResponse]) -> str:
    """Return the text of a prefect.yaml whose schedules are on and off as they are on the server.

    Prefect's own `deploy` deletes schedules without a slug, and turns the others on and off as the file says.
    So this keeps what people turned on or off. It adds the schedules that people made, which have no slug.

    Args:
        file: Contents of our prefect.yaml.
        there: Our deployments on the server, by flow and name.
    """
    deployments = []
    for deployment in file["deployments"]:
        flow = deployment["entrypoint"].rpartition(".")[2]
        before = there.get(f"{flow}/{deployment['name']}")
        if before is not None:
            active = {schedule.slug: schedule.active for schedule in before.schedules}
            schedules = [
                {**schedule, "active": active.get(schedule["slug"], before_it)}
                for schedule in deployment.get("schedules", [])
                for before_it in [active.get(RENAMED.get(schedule["slug"]), schedule["active"])]
            ]
            schedules += [_in_words_of_the_file(s) for s in before.schedules if not s.slug]
            deployment = {**deployment, "schedules": schedules, "paused": before.paused}
        deployments.append(deployment)
    # Every JSON document is YAML as well.
    return json.dumps({**file, "deployments": deployments})


async def delete_retired(file: dict[str, Any], there: dict[str, DeploymentResponse]) -> None:
    """Delete schedules on the server that our prefect.yaml has no more: Prefect's `deploy` keeps them.

    Schedules that people made have no slug, and stay.

    Args:
        file: Contents of our prefect.yaml.
        there: Our deployments on the server, by flow and name.
    """
    kept = {schedule["slug"] for d in file["deployments"] for schedule in d.get("schedules", [])}
    async with get_client() as client:
        for deployment in there.values():
            for schedule in deployment.schedules:
                if schedule.slug and schedule.slug not in kept:
                    await client.delete_deployment_schedule(deployment.id, schedule.id)


def _in_words_of_the_file(schedule: Any) -> dict[str, Any]:
    when = schedule.schedule.model_dump(mode="json", exclude_none=True)
    if isinstance(schedule.schedule, IntervalSchedule):
        when["interval"] = schedule.schedule.interval.total_seconds()
    return {**when, "active": schedule.active, "parameters": schedule.parameters or {}}


def _scheduled(name: str, deployment: DeploymentResponse) -> ScheduleState:
    on = not deployment.paused and any(schedule.active for schedule in deployment.schedules)
    return ScheduleState(deployment=name, on=on, schedules=[every(s.schedule) for s in deployment.schedules])


def every(schedule: Any) -> str:
    """Return when a schedule fires, in a few words."""
    interval = getattr(schedule, "interval", None)
    if interval is not None:
        return f"every {interval.total_seconds():.0f} s"
    return str(getattr(schedule, "cron", None) or getattr(schedule, "rrule", "?"))
