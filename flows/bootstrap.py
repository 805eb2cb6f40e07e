"""bootstrap: migrate Postgres, deploy the organism and set up Prefect. Safe to run again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import anyio
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.flows import Flow
from prefect.logging import get_run_logger
from prefect.states import Completed
from prefect.tasks import Task
from pydantic import BaseModel, Field

from organism_flows.blocks.errors import (
    ConfigurationError,
    OrganismError,
    OrganismUnavailable,
    QueueUnavailable,
)
from organism_flows.blocks.local_stack.stack_state import read_stack
from organism_flows.blocks.prefect_blocks.organism import Organism
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS, wait_for_postgres
from organism_flows.blocks.queue.db.migrate import migrate, pending
from organism_flows.blocks.queue.db.roles import how_to_make
from organism_flows.blocks.settings import load_settings
from organism_flows.flows.alerting import automations
from organism_flows.flows.dispatch import GRACE_S, dispatch
from organism_flows.flows.prefect_support import deployments
from organism_flows.flows.prefect_support.markdown import escaped
from organism_flows.flows.prefect_support.server import prefect_api
from organism_flows.flows.prefect_support.states import EXPECTED_ERRORS, ORGANISM_TAG, failed, show_page
from organism_flows.flows.verification import canary as canary_check
from organism_flows.flows.verification.thresholds import Thresholds
from organism_flows.serve_apps.organism.config import OrganismConfig, load_config
from organism_flows.serve_apps.organism.release import replacement
from organism_flows.serve_apps.organism.release.replacement import ReplacementDone, When
from organism_flows.serve_apps.organism.release.serve_api import running_config
from organism_flows.serve_apps.organism.release.serve_config import serve_config

STEPS = ("postgres", "limits", "organism", "deployments", "alerts", "canary")
STEP_TIMEOUT_S = 180.0
DEPLOY_S = 150.0
"""Time for the organism to run as deployed, in seconds. A roll-back to the old configuration has as much."""
CANARY_S = 60.0
LOOK_INTERVAL_S = 0.2
REPLICA_CPUS = 0.5
HTTP_PORT = 8000


class BootstrapStep(BaseModel):
    """Result of one step."""

    step: str
    changed: bool
    found: str
    changes: list[ReplacementDone] = []
    """Changes to the organism; empty in the other steps."""


class Bootstrapped(BaseModel):
    """Result of a bootstrap, step by step."""

    steps: list[BootstrapStep]

    @property
    def line(self) -> str:
        """Return the changes on one line."""
        changed = [f"{s.step}: {s.found}" for s in self.steps if s.changed]
        return "; ".join(changed) or "everything was right already"


def _may_succeed_next_time(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    # A retry does not correct a setting, and `prepare_postgres` has waited for Postgres already.
    return not isinstance(state.data, (ConfigurationError, QueueUnavailable))


def _step(
    name: str, *, retries: int = 3, timeout_s: float = STEP_TIMEOUT_S
) -> Callable[[Callable[..., Any]], Any]:
    return task(
        name=name,
        retries=retries,
        retry_delay_seconds=[1.0, 3.0, 10.0][:retries],
        retry_condition_fn=_may_succeed_next_time,
        timeout_seconds=timeout_s,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@_step("postgres")
async def prepare_postgres(queue: str, within_s: float) -> BootstrapStep:
    """Wait for Postgres and migrate it if migrations are missing."""
    block = (await TaskQueue.named(queue)).pinned()
    dsn = block.direct_dsn or block.dsn
    assert dsn is not None
    logger = get_run_logger()

    def waiting(why: str) -> None:
        logger.warning("waiting up to %g s for Postgres: %s", within_s, why)

    await wait_for_postgres(dsn.get_secret_value(), within_s=within_s, on_wait=waiting)
    missing = await pending(dsn.get_secret_value())
    if missing:
        if roles := await migrate(dsn.get_secret_value()):
            logger.warning(how_to_make(roles))
        return BootstrapStep(step="postgres", changed=True, found=f"migrated: {', '.join(missing)}")
    return BootstrapStep(step="postgres", changed=False, found="every migration is applied")


@_step("limits")
async def declare_limits(queue: str, config: str | None) -> BootstrapStep:
    """Set the limits, weights and policies that the organism's configuration declares."""
    wanted = load_config(Path(config) if config else load_settings().config)
    if not wanted.declares:
        return BootstrapStep(step="limits", changed=False, found="the configuration declares none")
    block = await TaskQueue.named(queue)
    async with block.open(application_name="organism-bootstrap", connections=1) as open_queue:
        changed = await open_queue.operator.declare(wanted.limits, wanted.weights, wanted.policies)
    found = f"set or removed: {', '.join(changed)}" if changed else "as the configuration declares"
    return BootstrapStep(step="limits", changed=bool(changed), found=found)


@_step("organism", timeout_s=2 * DEPLOY_S + 60)
async def deploy_organism(
    organism: str, cluster: str, config: str | None, replicas: int, when: When = "drain"
) -> BootstrapStep:
    """Connect to Ray, deploy the Serve application unless it runs as configured, and wait for its health."""
    await (await RayCluster.named(cluster)).connect()
    client = (await Organism.named(organism)).client()
    url, token = dashboard()
    if url is None:
        health = await client.health()
        return BootstrapStep(
            step="organism",
            changed=False,
            found=f"{health.status}; not deployed from here: RAY_DASHBOARD_URL is not set",
        )
    settings = load_settings()
    file = Path(config) if config else settings.config
    wanted = load_config(file)
    running = await running_config(url, token)
    new = serve_config(
        wanted,
        replicas=replicas,
        num_cpus=REPLICA_CPUS,
        python_path=[file.resolve().parent] if file else [],
        http_port=_http_port(),
    )
    plan = await replacement.plan(url, token, new)
    changed = running is None or not alike(wanted, running) or plan.code_changed
    found = "runs as configured"
    changes: list[ReplacementDone] = []
    if changed:
        logger = get_run_logger()
        changes = await replacement.carry_out(
            plan, url, token, DEPLOY_S, when=when, on_note=logger.info, on_progress=logger.info
        )
        found = f"deployed: {replacement.summary(changes)}" if running else "deployed"
    health = await client.health()
    if not health.organism_initialized:
        raise OrganismUnavailable(f"the organism is {health.status}", "see `organism verify`")
    return BootstrapStep(step="organism", changed=changed, found=f"{found}, {health.status}", changes=changes)


@_step("deployments")
async def apply_deployments() -> BootstrapStep:
    """Register blocks, create the work pool, and apply deployments and schedules."""
    applied = await deployments.apply()
    done = ["made the work pool"] if applied.new_pool else []
    if applied.changed:
        done.append(f"applied {', '.join(applied.changed)}")
    return BootstrapStep(
        step="deployments",
        changed=bool(done),
        found="; ".join(done) or f"{', '.join(applied.deployments)} are as they should be",
    )


@_step("alerts")
async def apply_alerts() -> BootstrapStep:
    """Create the automations that deliver alerts, if there is a notification block."""
    try:
        applied = await automations.apply(load_settings().alerts)
    except ConfigurationError as error:
        return BootstrapStep(step="alerts", changed=False, found=f"no alerts: {error}")
    return BootstrapStep(step="alerts", changed=bool(applied.made or applied.changed), found=applied.line)


@_step("canary", retries=1)
async def send_canary(queue: str, organism: str, cluster: str) -> BootstrapStep:
    """Send a task through the whole system. If no lane claims tasks, start one for it."""

    async def run_lane(runs: list[str]) -> None:
        def began(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
            runs.append(str(flow_run.id))

        lane = dispatch.with_options(on_running=[began])
        await lane(max_seconds=CANARY_S, queue=queue, organism=organism, cluster=cluster)

    block = await TaskQueue.named(queue)
    async with (
        block.open(application_name="organism-bootstrap", connections=2) as open_queue,
        some_lane(open_queue, run_lane),
    ):
        [found] = await canary_check.check(open_queue, Thresholds(canary_s=CANARY_S))
    if found.status != "ok":
        raise OrganismError(f"canary: {found.evidence}", found.action)
    return BootstrapStep(step="canary", changed=False, found=found.evidence)


@asynccontextmanager
async def some_lane(queue: Queue, run_lane: Callable[[list[str]], Any]) -> AsyncIterator[None]:
    """Make sure that a lane claims tasks. If there is none, run one of our own until the block ends.

    Args:
        queue: An open queue.
        run_lane: Runs a lane, and appends the id of its dispatch run to the list that it gets.

    Raises:
        Exception: The error of ``run_lane``, if it fails before any lane claims.
    """
    runs: list[str] = []
    own: asyncio.Task[None] | None = None
    there = asyncio.Event()

    async def watch() -> None:
        nonlocal own
        while True:
            if any(lane.claiming for lane in await queue.reader.lanes()):
                there.set()
            elif own is None:
                # This may be at a later pass: the lane seen at first may have been dead, with a valid lease.
                own = asyncio.create_task(run_lane(runs))
            elif own.done():
                return await own
            await asyncio.sleep(LOOK_INTERVAL_S)

    watching = asyncio.create_task(watch())
    waiting = asyncio.create_task(there.wait())
    try:
        await asyncio.wait([watching, waiting], return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            await watching
        yield
    finally:
        waiting.cancel()
        watching.cancel()
        if own is not None:
            with anyio.CancelScope(shield=True):
                await _stop(queue, runs, own)


async def _stop(queue: Queue, runs: list[str], own: asyncio.Task[None]) -> None:
    """Ask the lanes of ``runs``, and no others, to stop, and wait until ``own`` ends."""
    with anyio.move_on_after(CANARY_S + GRACE_S):
        while not own.done():
            for run in runs:
                # Repeat the request: a lane that is still starting has no row yet that could carry it.
                with suppress(*TRANSIENT_ERRORS):
                    await queue.operator.request_stop(run)
            await asyncio.wait([own], timeout=1.0)
    own.cancel()
    await asyncio.gather(own, return_exceptions=True)


def dashboard() -> tuple[str | None, str | None]:
    """Return the URL of the Ray dashboard and the token for it. Each is `None` if it is not known."""
    stack = read_stack(load_settings().home)
    url = os.environ.get("RAY_DASHBOARD_URL") or (stack.ray_dashboard_url if stack else None)
    token = os.environ.get("RAY_AUTH_TOKEN")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", ""))
    if token is None and path.is_file():
        token = path.read_text().strip()
    return url, token


def alike(wanted: OrganismConfig, running: OrganismConfig) -> bool:
    """Return True if the two differ at most in ``python_path``, which depends on who deploys."""
    nowhere: dict[str, list[Path]] = {"python_path": []}
    return wanted.model_copy(update=nowhere) == running.model_copy(update=nowhere)


def _http_port() -> int:
    stack = read_stack(load_settings().home)
    port = urlsplit(stack.organism_url).port if stack else load_settings().http_port
    return port or HTTP_PORT


@flow(
    name="bootstrap",
    version=ORGANISM_TAG,
    flow_run_name=lambda: f"bootstrap · {datetime.now():%H:%M}",
    persist_result=False,
    retries=0,
)
async def bootstrap(
    config: str | None = None,
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1,
    canary: bool = True,
    postgres_seconds: Annotated[float, Field(gt=0, le=120)] = 120.0,
    when: When = "drain",
    queue: str = "default",
    organism: str = "default",
    cluster: str = "default",
) -> Bootstrapped:
    """Migrate Postgres, deploy the organism, apply blocks, deployments and alerts, and send a canary task.

    Each step checks first and changes only what is wrong. If a run was killed, the next one finishes the job.

    Args:
        config: The organism's configuration file; empty: ORGANISM_CONFIG, or else the demo.
        replicas: Number of replicas of the organism.
        canary: Send a task through the whole system at the end.
        postgres_seconds: Time that Postgres may take to start, in seconds.
        when: When to interrupt tasks that run on replicas to be replaced. `drain`: after the `drain_s` of
            their organ. `idle`: never, wait until they end. `now`: at once.
        queue: Name of the Task Queue block.
        organism: Name of the Organism block.
        cluster: Name of the Ray Cluster block.

    Returns:
        The result of each step.

    Raises:
        OrganismError: A step failed. The message says which one and what to do.
    """
    done = Bootstrapped(steps=[])
    try:
        prefect_api()
        done.steps.append(await prepare_postgres(queue, postgres_seconds))
        done.steps.append(await declare_limits(queue, config))
        # With `idle` it may wait for tasks that take hours, so it has no timeout.
        step = deploy_organism.with_options(timeout_seconds=None) if when == "idle" else deploy_organism
        done.steps.append(await step(organism, cluster, config, replicas, when))
        done.steps.append(await apply_deployments())
        done.steps.append(await apply_alerts())
        if canary:
            done.steps.append(await send_canary(queue, organism, cluster))
    except EXPECTED_ERRORS as error:
        end = failed(_late(done, error) if isinstance(error, TimeoutError) else error)
        await show_page(_page(end.message or "", done), key="bootstrap-steps")
        return end  # type: ignore[return-value]
    get_run_logger().info(done.line)
    await show_page(_page(done.line, done), key="bootstrap-steps")
    return Completed(message=done.line, data=done)  # type: ignore[return-value]


def _late(done: Bootstrapped, error: TimeoutError) -> OrganismError:
    step = STEPS[len(done.steps)]
    return OrganismError(
        f"{step} did not end in time: {str(error) or type(error).__name__}",
        "see the log of its task run, then run it again: what is done stays done",
    )


def _page(line: str, done: Bootstrapped) -> str:
    rows = [
        f"| {s.step} | {'changed' if s.changed else 'right'} | {escaped(s.found, 200)} |" for s in done.steps
    ]
    return "\n".join([f"**{escaped(line, 1000)}**", "", "| step | | found |", "|---|---|---|", *rows])
