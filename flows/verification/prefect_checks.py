"""Checks of Prefect: its API, its workers, and the schedules that start our flows."""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import WorkerStatus

from organism_flows.blocks.errors import ConfigurationError, PrefectUnavailable
from organism_flows.blocks.finding import Finding, degraded, failed, ok
from organism_flows.flows.prefect_support.schedules import DEPLOYMENTS_LIMIT, every, ours
from organism_flows.flows.prefect_support.server import prefect_api, prefect_client
from organism_flows.flows.prefect_support.stale_runs import FLOW_NAMES

CHECK_TIMEOUT_S = 20.0
"""Longest time for all checks of Prefect, in seconds."""


async def check() -> list[Finding]:
    """Return all findings about the Prefect server that this process uses."""
    try:
        api = prefect_api()
        async with prefect_client(CHECK_TIMEOUT_S) as client:
            server = await client.api_version()
            return [ok("prefect: api", f"{api}, server {server}"), *await _findings(client)]
    except (ConfigurationError, PrefectUnavailable) as error:
        return [failed("prefect: api", error.what, error.next_step)]


async def _findings(client: PrefectClient) -> list[Finding]:
    deployments = list((await ours(client)).values())
    if not deployments:
        return [degraded("prefect: deployments", "none of ours", "apply them: `organism up` or bootstrap")]
    findings = [_deployments(deployments)]
    if (unable := _schedules(deployments)) is not None:
        findings.append(unable)
    for pool in sorted({d.work_pool_name for d in deployments if d.work_pool_name}):
        workers = await client.read_workers_for_work_pool(pool, limit=DEPLOYMENTS_LIMIT)
        findings.append(_workers(pool, workers))
    return findings


def _deployments(deployments: list[Any]) -> Finding:
    there = {d.entrypoint.rpartition(".")[2] if d.entrypoint else d.name for d in deployments}
    missing = [name for name in FLOW_NAMES if name not in there]
    on = [
        f"{d.entrypoint.rpartition('.')[2]} ({', '.join(every(s.schedule) for s in d.schedules if s.active)})"
        for d in deployments
        if not d.paused and any(s.active for s in d.schedules)
    ]
    seen = f"{len(deployments)} deployments; scheduled: {', '.join(sorted(on)) or 'none'}"
    if missing:
        return degraded(
            "prefect: deployments",
            f"{seen}; missing: {', '.join(missing)}",
            "apply them: `organism up` or bootstrap",
        )
    if not any(line.startswith("dispatch") for line in on):
        return degraded(
            "prefect: deployments", seen, "dispatch is not scheduled: `organism schedule dispatch on`"
        )
    return ok("prefect: deployments", seen)


def _schedules(deployments: list[Any]) -> Finding | None:
    """Return a finding that names the schedules that are on and lack a required parameter, or `None`.

    Prefect 3.8.8 validates the values that a schedule gives, but does not notice that one is missing.
    """
    wrong = {}
    for deployment in deployments:
        flow = deployment.entrypoint.rpartition(".")[2] if deployment.entrypoint else deployment.name
        required = set((deployment.parameter_openapi_schema or {}).get("required", []))
        for schedule in deployment.schedules:
            missing = required - set(deployment.parameters or {}) - set(schedule.parameters or {})
            if missing and schedule.active and not deployment.paused:
                wrong[flow] = f"{flow} ({every(schedule.schedule)}) gives no {', '.join(sorted(missing))}"
    if not wrong:
        return None
    return degraded(
        "prefect: schedules",
        f"every run of a schedule fails: {'; '.join(wrong.values())}",
        "give it under the schedule's parameters in the Prefect UI, or turn it off: "
        + ", ".join(f"`organism schedule {flow} off`" for flow in wrong),
    )


def _workers(pool: str, workers: list[Any]) -> Finding:
    online = [worker.name for worker in workers if worker.status == WorkerStatus.ONLINE]
    if not online:
        return degraded(
            f"prefect: workers of {pool}",
            f"none is online of {len(workers)} known",
            f"start one: `organism up`, or `prefect worker start --pool {pool}`",
        )
    return ok(f"prefect: workers of {pool}", f"{len(online)} online")
