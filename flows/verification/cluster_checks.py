"""Checks of Ray, Serve and the organism: reachable, healthy, in the same environment as this process."""

from __future__ import annotations

import os
from typing import Any

import httpx

from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.finding import Finding, degraded, failed, ok
from organism_flows.blocks.http_clients import own_client
from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.long_work import OrganismWork, ask_organism
from organism_flows.blocks.organism_reports import EnvironmentReport
from organism_flows.blocks.prefect_blocks.organism import Organism
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.settings import load_settings
from organism_flows.blocks.versions import ONE_IMAGE, differences, installed
from organism_flows.flows.verification.node_checks import versions_on

HTTP_TIMEOUT_S = 10.0


async def check_ray(cluster: RayCluster, *, trust_nodes_s: float = 0.0) -> list[Finding]:
    """Connect this process to the cluster, and return findings about its nodes, resources and versions.

    Args:
        cluster: The cluster.
        trust_nodes_s: See `versions_on`.
    """
    import ray

    await cluster.connect()
    nodes: list[Any] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node for node in nodes if node["Alive"]]
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    cpus, free_cpus = total.get("CPU", 0.0), free.get("CPU", 0.0)
    seen = f"{free_cpus:g} of {cpus:g} CPUs free"
    if gpus := total.get("GPU"):
        seen += f", {free.get('GPU', 0.0):g} of {gpus:g} GPUs"
    findings = [ok("ray: nodes", f"{len(alive)} alive of {len(nodes)} ever seen")]
    if free_cpus < cluster.lane_cpus:
        findings.append(
            degraded(
                "ray: resources", seen, f"a lane needs {cluster.lane_cpus:g} CPUs: none can be started now"
            )
        )
    else:
        findings.append(ok("ray: resources", seen))
    return [*findings, await versions_on(alive, trust_s=trust_nodes_s)]


async def check_serve(organism: Organism, organism_url: str | None) -> list[Finding]:
    """Return findings about the application, the organism, its HTTP routes and its replica's environment.

    Args:
        organism: The organism, called through its handle.
        organism_url: Base URL of the HTTP routes; `None` if it is not known here.
    """
    from ray import serve

    status = serve.status()
    findings = _application(status, organism.app_name)
    if organism.app_name in status.applications:
        findings += await _answers(organism)
        if organism_url:
            findings.append(await _routes(organism_url))
            findings += copies(await ask_organism(organism_url, own_headers(load_settings())))
    return findings


def copies(work: OrganismWork | None) -> list[Finding]:
    """Return whether handlers still run that were asked to stop.

    Args:
        work: Answer of the organism. `None` means it did not answer: then there is no finding.
    """
    if work is None:
        return []
    name = "organism: copies"
    if work.copies_note is None:
        return [ok(name, "; ".join(["no handler runs that was asked to stop", *work.notes]))]
    action = "make these handlers heed `context.cancelled`, or run them with `processes: true`"
    return [degraded(name, "; ".join(work.notes), action)]


async def _answers(organism: Organism) -> list[Finding]:
    try:
        health = await organism.client().health()
        status = await organism.client().status()
    except OrganismError as error:
        return [failed("organism: health", error.what, error.next_step)]
    there = status.environment
    found = [_same_packages(there), _same_settings(there)] if there else []
    if health.status == "healthy":
        seen = f"up for {health.uptime_s:.0f} s, {len(status.organs)} organs"
        return [ok("organism: health", seen), *found]
    finding = (degraded if health.organism_initialized else failed)(
        "organism: health",
        f"{health.status}: {health.reason}",
        "correct its configuration and run `organism up`",
    )
    return [finding, *found]


def _application(status: Any, app_name: str) -> list[Finding]:
    app = status.applications.get(app_name)
    if app is None:
        return [
            failed("serve: application", f"there is no application {app_name!r}", "deploy it: `organism up`")
        ]
    findings = []
    for name, deployment in sorted(app.deployments.items()):
        states = ", ".join(f"{count} {state}" for state, count in deployment.replica_states.items() if count)
        seen = f"{deployment.status.value}: {states or 'no replica'}"
        if deployment.status.value == "HEALTHY":
            findings.append(ok(f"serve: {name}", seen))
        else:
            seen = f"{seen}; {' '.join(deployment.message.split())[:200]}"
            findings.append(degraded(f"serve: {name}", seen, "see the Serve page of the Ray dashboard"))
    if app.status.value not in ("RUNNING", "DEPLOYING"):
        message = " ".join(app.message.split())[:200]
        findings.append(
            failed(
                "serve: application", f"{app.status.value}: {message}", "read why, correct it, `organism up`"
            )
        )
    return findings


def _same_packages(there: EnvironmentReport) -> Finding:
    here = {name: value for name, value in installed().items() if name in ("Python", *there.packages)}
    if differ := differences(here, {"Python": there.python, **there.packages}):
        return failed("serve: versions", "; ".join(differ), ONE_IMAGE)
    return ok("serve: versions", f"as here; Python {there.python}, ray {there.packages['ray']}")


def _same_settings(there: EnvironmentReport) -> Finding:
    names = {name for name in (*os.environ, *there.variables) if name.startswith("ORGANISM_")}
    # Replicas mask the two connection URLs and do not use them. The other two mark processes of the stack.
    names -= {"ORGANISM_DSN", "ORGANISM_DIRECT_DSN", "ORGANISM_STACK_ID", "ORGANISM_STACK_ROLE"}
    differ = [
        f"{name}={os.environ.get(name, 'unset')} here, {there.variables.get(name, 'unset')} there"
        for name in sorted(names)
        if os.environ.get(name) != there.variables.get(name)
    ]
    if differ:
        return ok("serve: settings", "differ: " + "; ".join(differ))
    return ok("serve: settings", "the replica sees the same ORGANISM_ variables as this process")


async def _routes(url: str) -> Finding:
    try:
        async with own_client(timeout=HTTP_TIMEOUT_S) as client:
            answer = await client.get(f"{url}/health")
    except httpx.HTTPError as error:
        return failed(
            "organism: routes",
            f"{url} does not answer: {str(error) or type(error).__name__}",
            "see that Serve's HTTP proxy runs, and that nothing is between",
        )
    if answer.status_code != 200:
        return failed(
            "organism: routes", f"{url}/health answers {answer.status_code}", "see organism: health"
        )
    return ok("organism: routes", f"{url}/health answers 200")
