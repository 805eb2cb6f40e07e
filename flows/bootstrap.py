"""bootstrap: bring Postgres, the organism on Ray and Prefect to where they should be; safe to run again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from prefect import flow, task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed
from pydantic import BaseModel, Field

from blocks.errors import ConfigurationError, OrganismError, OrganismUnavailable
from blocks.organism import Organism
from blocks.queue.migrate import migrate, pending
from blocks.ray_cluster import RayCluster
from blocks.settings import load_settings
from blocks.stack import read_stack
from blocks.task_queue import TaskQueue
from flows import deploying
from flows.alerting import automations
from flows.dispatch import dispatch
from flows.verification import canary as canary_check
from flows.verification.limits import Limits
from serve_apps.organism.config import OrganismConfig, load_config
from serve_apps.organism.deploy import replace, running_config, serve_config

STEP_TIMEOUT_S = 180
CANARY_S = 60.0
REPLICA_CPUS = 0.5
HTTP_PORT = 8000


class Step(BaseModel):
    """What one step found and did."""

    step: str
    changed: bool
    found: str


class Bootstrapped(BaseModel):
    """What a bootstrap found and did, step by step."""

    steps: list[Step]

    @property
    def line(self) -> str:
        """All of it on one line."""
        changed = [f"{s.step}: {s.found}" for s in self.steps if s.changed]
        return "; ".join(changed) or "everything was right already"


def _step(name: str, *, retries: int = 3) -> Callable[[Callable[..., Any]], Any]:
    return task(
        name=name,
        retries=retries,
        retry_delay_seconds=[1.0, 3.0, 10.0][:retries],
        timeout_seconds=STEP_TIMEOUT_S,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@_step("postgres")
async def prepare_postgres(queue: str) -> Step:
    """Wait for Postgres and migrate it."""
    block = (await TaskQueue.named(queue)).pinned()
    dsn = block.direct_dsn or block.dsn
    assert dsn is not None
    missing = await pending(dsn.get_secret_value())
    if missing:
        await migrate(dsn.get_secret_value())
        return Step(step="postgres", changed=True, found=f"migrated: {', '.join(missing)}")
    return Step(step="postgres", changed=False, found="every migration is applied")


@_step("organism")
async def deploy_organism(organism: str, cluster: str, config: str | None, replicas: int) -> Step:
    """Connect to Ray, deploy the Serve app unless it runs as it should, wait until it is healthy."""
    await (await RayCluster.named(cluster)).connect()
    client = (await Organism.named(organism)).client()
    url, token = dashboard()
    if url is None:
        health = await client.health()
        return Step(
            step="organism",
            changed=False,
            found=f"{health['status']}; not deployed from here: RAY_DASHBOARD_URL is not set",
        )
    settings = load_settings()
    file = Path(config) if config else settings.config
    wanted = load_config(file)
    running = await running_config(url, token)
    changed = running is None or not alike(wanted, running)
    if changed:
        folders = [file.resolve().parent] if file else []
        new = serve_config(
            wanted, replicas=replicas, num_cpus=REPLICA_CPUS, python_path=folders, http_port=_http_port()
        )
        await replace(url, token, new, STEP_TIMEOUT_S - 30)
    health = await client.health()
    if not health.get("organism_initialized"):
        raise OrganismUnavailable(f"the organism is {health.get('status')}", "see `organism verify`")
    return Step(
        step="organism",
        changed=changed,
        found=f"{'deployed' if changed else 'runs as configured'}, {health['status']}",
    )


@_step("deployments")
async def apply_deployments() -> Step:
    """Register blocks, make the work pool, apply deployments and schedules."""
    applied = await deploying.apply()
    return Step(
        step="deployments",
        changed=applied.new_pool,
        found=f"{'made work pool and ' if applied.new_pool else ''}applied {', '.join(applied.deployments)}",
    )


@_step("alerts")
async def apply_alerts() -> Step:
    """Make the automations that deliver alerts, where there is a block to deliver them."""
    try:
        applied = await automations.apply(load_settings().alerts)
    except ConfigurationError as error:
        return Step(step="alerts", changed=False, found=f"no alerts: {error}")
    return Step(step="alerts", changed=bool(applied.made or applied.changed), found=applied.line)


@_step("canary", retries=1)
async def send_canary(queue: str, organism: str, cluster: str) -> Step:
    """Send a task through everything; where no lane runs, start one for it."""
    block = await TaskQueue.named(queue)
    async with block.open(application_name="organism-bootstrap", connections=2) as open_queue:
        own = None
        if not any(lane.live for lane in await open_queue.lanes()):
            own = asyncio.create_task(
                dispatch(max_seconds=CANARY_S, queue=queue, organism=organism, cluster=cluster)
            )
            async with asyncio.timeout(CANARY_S):
                while not own.done() and not any(lane.live for lane in await open_queue.lanes()):  # noqa: ASYNC110  # a table
                    await asyncio.sleep(0.2)
        try:
            [found] = await canary_check.check(open_queue, Limits(canary_s=CANARY_S))
        finally:
            if own is not None:
                for lane in await open_queue.lanes():
                    if lane.run:
                        await open_queue.request_stop(lane.run)
                await asyncio.gather(own, return_exceptions=True)
    if found.status != "ok":
        raise OrganismError(f"canary: {found.evidence}", found.action)
    return Step(step="canary", changed=False, found=found.evidence)


def dashboard() -> tuple[str | None, str | None]:
    """URL of the Ray dashboard, and the token that opens it; None where not known."""
    stack = read_stack(load_settings().home)
    url = os.environ.get("RAY_DASHBOARD_URL") or (stack.ray_dashboard_url if stack else None)
    token = os.environ.get("RAY_AUTH_TOKEN")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", ""))
    if token is None and path.is_file():
        token = path.read_text().strip()
    return url, token


def alike(wanted: OrganismConfig, running: OrganismConfig) -> bool:
    """Whether they differ in nothing but where handlers are imported from, which hangs on who deploys."""
    nowhere: dict[str, list[Path]] = {"python_path": []}
    return wanted.model_copy(update=nowhere) == running.model_copy(update=nowhere)


def _http_port() -> int:
    stack = read_stack(load_settings().home)
    port = urlsplit(stack.organism_url).port if stack else load_settings().http_port
    return port or HTTP_PORT


@flow(
    name="bootstrap",
    flow_run_name=lambda: f"bootstrap · {datetime.now():%H:%M}",
    persist_result=False,
    retries=0,
)
async def bootstrap(
    config: str | None = None,
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1,
    canary: bool = True,
    queue: str = "default",
    organism: str = "default",
    cluster: str = "default",
) -> Bootstrapped:
    """Migrate Postgres, deploy the organism, apply blocks, deployments and alerts, and send a canary task.

    Every step looks first and changes only what is not right, so that running it again after it was killed
    anywhere finishes the job.

    Args:
        config: The organism's configuration file; empty: ORGANISM_CONFIG, else the demo.
        replicas: Replicas of the organism.
        canary: Send a task through everything at the end.
        queue: Name of the Task Queue block.
        organism: Name of the Organism block.
        cluster: Name of the Ray Cluster block.

    Returns:
        What each step found and did.

    Raises:
        OrganismError: A step could not be done; the message says which and what to do.
    """
    done = Bootstrapped(steps=[])
    try:
        done.steps.append(await prepare_postgres(queue))
        done.steps.append(await deploy_organism(organism, cluster, config, replicas))
        done.steps.append(await apply_deployments())
        done.steps.append(await apply_alerts())
        if canary:
            done.steps.append(await send_canary(queue, organism, cluster))
    except OrganismError as error:
        return Failed(message=str(error), data=error)  # type: ignore[return-value]
    finally:
        if done.steps:
            await acreate_table_artifact(
                key="bootstrap-steps", table=[step.model_dump() for step in done.steps], description=done.line
            )
    return Completed(message=done.line, data=done)  # type: ignore[return-value]
