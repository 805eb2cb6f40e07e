"""Which of our deployments start by themselves: people turn that on and off, and applying leaves it so."""

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
"""Slugs that schedules of the file had before: the one that was turned off stays off."""
DEPLOYMENTS_LIMIT = 200
"""The server's own limit on what it lists at once."""


class ScheduleState(BaseModel):
    """When a deployment starts by itself."""

    deployment: str
    """Flow and name: ``dispatch/organism``."""
    on: bool
    schedules: list[str]
    """All it has: ``every 300 s``."""


async def scheduled() -> list[ScheduleState]:
    """Our deployments on the Prefect server, those first that start by themselves."""
    async with get_client() as client:
        found = await ours(client)
    every = [_scheduled(name, deployment) for name, deployment in found.items()]
    return sorted(every, key=lambda one: (not one.on, not one.schedules, one.deployment))


async def turn(flow: str, *, on: bool) -> ScheduleState:
    """Turn every schedule of ``flow``'s deployment on, or off; runs that have begun go on.

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
    """Our deployments on the server, by flow and name."""
    found = await client.read_deployments(
        deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[ORGANISM_TAG])),
        limit=DEPLOYMENTS_LIMIT,
    )
    flows = {flow_id: (await client.read_flow(flow_id)).name for flow_id in {d.flow_id for d in found}}
    return {f"{flows[d.flow_id]}/{d.name}": d for d in found}


def as_left(file: dict[str, Any], there: dict[str, DeploymentResponse]) -> str:
    """``file``, the contents of a prefect.yaml, with schedules on and off as they are on the server.

    Prefect's own `deploy` deletes schedules without a slug, and turns the others on and off as the file has
    them. So what somebody turned on or off keeps its state, and schedules that are not the file's, which have
    no slug, are taken along.
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
    # Every JSON document is a YAML one.
    return json.dumps({**file, "deployments": deployments})


async def delete_retired(file: dict[str, Any], there: dict[str, DeploymentResponse]) -> None:
    """Delete the schedules ``there`` that ``file`` had once, and has no more: Prefect's `deploy` keeps them.

    Those that people added have no slug, and stay.
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
    """When a schedule fires, in a few words."""
    interval = getattr(schedule, "interval", None)
    if interval is not None:
        return f"every {interval.total_seconds():.0f} s"
    return str(getattr(schedule, "cron", None) or getattr(schedule, "rrule", "?"))
