"""A lane as a Prefect task on Ray: start it, wait for it, and mark its task run if its process dies."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import anyio
import ray
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED, temporary_settings
from prefect.states import Crashed
from prefect.tasks import Task
from prefect_ray.context import remote_options
from prefect_ray.task_runners import PrefectRayFuture
from pydantic import BaseModel, Field

from organism_flows.blocks.errors import OrganismError, OrganismUnavailable, QueueUnavailable
from organism_flows.blocks.gc_tuning import collect_rarely
from organism_flows.blocks.node_drain import node_is_drained
from organism_flows.blocks.prefect_blocks.organism import Organism
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.blocks.queue import Batch
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from organism_flows.blocks.tracing import tracer
from organism_flows.blocks.versions import package_version, refuse_other_flow
from organism_flows.flows.lanes.lane import Lane
from organism_flows.flows.lanes.summary import LaneSummary

MARK_RETRY_S = 5.0
MARK_ATTEMPTS = 200
PROGRESS_LOG_S = 5.0
"""Shortest time between two progress lines of a lane, in seconds."""
PROGRESS_LOG_SHARE = 60
"""Shortest time between two progress lines of a lane, as 1/N of the lane's age.

It keeps the log of a run of days readable.
"""
NODE_MARGIN_S = 10.0
"""Time that a lane needs at the end of a drained node to stop handlers and hand tasks back, in seconds."""


class LaneOptions(BaseModel):
    """Options of a lane: the parameters of `flows.lanes.lane.Lane` that a flow may set."""

    run: str
    batch_size: int = Field(ge=1, le=5000)
    tasks_in_flight: int = Field(ge=1, le=100_000)
    until_empty: bool
    max_seconds: float | None
    grace_s: float
    relay: bool = False
    run_started_at: datetime | None = None


def _may_succeed_next_time(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    # Prefect passes the exception as the state's data. TimeoutError is an OSError as well, but it comes from
    # the timeout of the task run: do not start a stuck lane again in the process in which it got stuck.
    return _lost_postgres(state.data) and not isinstance(state.data, TimeoutError)


def _lost_postgres(error: object) -> bool:
    return isinstance(error, (QueueUnavailable, *TRANSIENT_ERRORS))


@task(
    name="lane",
    task_run_name="lane-{number}",
    # Lanes with equal parameters are still different lanes.
    cache_policy=NO_CACHE,
    persist_result=False,
    # For a lane that lost Postgres for a moment: a retry in the same process saves starting another one. A
    # lane that hangs or whose process died is replaced by the flow, because retries run in that process.
    retries=2,
    retry_delay_seconds=[1, 3],
    retry_condition_fn=_may_succeed_next_time,
)
async def run_lane(
    number: int, queue: TaskQueue, organism: Organism, options: LaneOptions, flow_version: str
) -> LaneSummary:
    """Run one lane until it is stopped, its time is over or, with ``until_empty``, the queue is empty.

    Args:
        number: Number of the lane within its run.
        queue: The queue, with every field filled in.
        organism: The organism that runs its tasks.
        options: Options of the lane.
        flow_version: `package_version` of the process that starts it.

    Raises:
        ConfigurationError: This node has another version.
    """
    refuse_other_flow(flow_version, socket.gethostname())
    collect_rarely()
    tracer("organism-lane")
    logger = get_run_logger()
    began = last_line = asyncio.get_running_loop().time()

    def progress(summary: LaneSummary) -> None:
        nonlocal last_line
        now = asyncio.get_running_loop().time()
        if now - last_line > max(PROGRESS_LOG_S, (now - began) / PROGRESS_LOG_SHARE):
            last_line = now
            logger.info(
                "%s: %d completed, %d dead letters, %d to be retried",
                summary.lane,
                summary.completed,
                summary.failed,
                summary.retried,
            )

    async with (
        queue.open(application_name="organism-lane") as open_queue,
        organism.client().in_this_loop() as client,
    ):
        # The first call of a process creates Serve's router and its channel, which takes a second or two. No
        # task should wait for that. The lane itself handles an organism that is away.
        with suppress(OrganismError):
            async for _ in client.call(Batch()):
                pass
        lane = Lane(
            open_queue,
            client,
            number=number,
            **options.model_dump(),
            logger=logger,
            on_settled=progress,
        )
        running = asyncio.create_task(lane.run())
        leaving = asyncio.create_task(_leave_with_node(lane, logger))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # Prefect's timeout cancels again at every await until its scope ends; without a scope of its
            # own the lane could not hand its tasks back.
            with anyio.CancelScope(shield=True):
                running.cancel()
                await asyncio.wait([running])
            raise
        finally:
            leaving.cancel()


async def _leave_with_node(lane: Lane, logger: Any) -> None:
    """Have ``lane`` leave in time when Ray takes this node away."""
    left_s = await node_is_drained()
    # Half of a short time, so that handlers have some of it too.
    within_s = max(left_s - NODE_MARGIN_S, left_s / 2)
    lane.summary.node_drained = True
    logger.info("%s leaves: Ray drains this node; handlers have %g s", lane.id, within_s)
    lane.leave(within_s)


@dataclass(frozen=True, slots=True)
class LaneEnd:
    """End of one lane: with a summary, or with an error."""

    summary: LaneSummary | None = None
    error: str | None = None
    lost: bool = False
    """True if the lane's process died or it lost Postgres: another lane may succeed."""


class LaneRun:
    """A lane on Ray, as seen by the flow.

    Raises:
        OrganismUnavailable: Ray does not accept the lane.
    """

    def __init__(
        self,
        number: int,
        cluster: RayCluster,
        queue: TaskQueue,
        organism: Organism,
        options: LaneOptions,
        *,
        timeout_s: float | None,
    ) -> None:
        self.number = number
        self._started = time.monotonic()
        self._why: str | None = None
        self._given_up = asyncio.Event()
        self.marked: asyncio.Task[None] | None = None
        """Task that marks the lane's task run as crashed in Prefect, if the lane died."""
        lane = run_lane.with_options(timeout_seconds=timeout_s)
        try:
            # The version check calls Prefect's server: no lane could start while that is away. Settings go
            # with the task.
            with (
                temporary_settings({PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False}),
                remote_options(**cluster.lane_options()),
            ):
                submitted = lane.submit(number, queue, organism, options, package_version())
        except (ray.exceptions.RayError, ConnectionError) as error:
            # A new Ray head refuses each process that was connected to the head before it, with the error
            # that the token is missing (2.60). A process cannot connect again.
            raise OrganismUnavailable(
                f"the Ray cluster was lost: {type(error).__name__} on starting lane-{number}",
                "start the dispatch again; nothing is lost, and what its lanes held comes back",
            ) from None
        future = cast("PrefectRayFuture[LaneSummary]", submitted)
        self.task_run_id: UUID = future.task_run_id
        self._ref = future.wrapped_future

    @property
    def age_s(self) -> float:
        """Return the seconds since the lane was started."""
        return time.monotonic() - self._started

    async def ended(self) -> LaneEnd:
        """Wait for the end of the lane, and return it.

        The wait does not block the flow's event loop, so timeouts and signals reach it.
        """
        given_up = asyncio.create_task(self._given_up.wait())
        ended = asyncio.ensure_future(_end_of(self._ref))
        try:
            await asyncio.wait([ended, given_up], return_when=asyncio.FIRST_COMPLETED)
            end = ended.result() if ended.done() else None
        finally:
            given_up.cancel()
            ended.cancel()
        if isinstance(end, State):
            if end.is_completed():
                return LaneEnd(summary=await end.aresult())
            error = await end.aresult(raise_on_failure=False)
            lost = _lost_postgres(error) and end.name != "TimedOut"
            return LaneEnd(error=end.message or end.name, lost=lost)
        what = self._why or f"its process died ({type(end).__name__})"
        # Do not wait for it: another lane has to start whether or not Prefect's server answers.
        self.marked = asyncio.create_task(_mark_crashed(self.task_run_id, what))
        return LaneEnd(error=what, lost=True)

    def cancel(self, why: str) -> None:
        """Cancel the lane's Ray task. Ask it to stop through the queue first; it can still clean up."""
        self._why = why
        ray.cancel(self._ref)

    def kill(self, why: str) -> None:
        """Kill the lane's process.

        Ray 2.60 does so at once if the event loop or a thread hangs, and after 5 s if the whole process is
        frozen.
        """
        self._why = why
        ray.cancel(self._ref, force=True)

    def give_up(self, why: str) -> None:
        """Kill the lane's process, and stop waiting for its end."""
        self.kill(why)
        self._given_up.set()


async def _end_of(ref: Any) -> State[Any] | ray.exceptions.RayError:
    try:
        return cast("State[Any]", await ref)
    except ray.exceptions.RayError as error:
        return error


async def _mark_crashed(task_run_id: UUID, why: str) -> None:
    # Prefect leaves such a run `Running` for ever (3.8.8 with prefect-ray 0.6.0).
    crashed: State[Any] = Crashed(message=f"The lane ended without a word: {why}.")
    for attempt in range(MARK_ATTEMPTS):
        try:
            async with get_client() as client:
                await client.set_task_run_state(task_run_id, crashed, force=True)
                return
        except Exception as error:
            # Work goes on without Prefect's server; only the run's page is wrong until it answers.
            if attempt == 0:
                get_run_logger().warning("task run %s is not yet marked as crashed: %s", task_run_id, error)
            await asyncio.sleep(MARK_RETRY_S)
