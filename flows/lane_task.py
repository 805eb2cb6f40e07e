"""A lane as a Prefect task on Ray: started, awaited, and its run repaired when its process dies."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import anyio
import ray
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.states import Crashed
from prefect.tasks import Task
from prefect_ray.context import remote_options
from prefect_ray.task_runners import PrefectRayFuture
from pydantic import BaseModel, Field

from blocks.errors import QueueUnavailable
from blocks.organism import Organism
from blocks.queue.connection import TRANSIENT_ERRORS
from blocks.ray_cluster import RayCluster
from blocks.task_queue import TaskQueue
from flows.calls import LaneSummary
from flows.lane import Lane

PROGRESS_LOG_S = 5.0
"""A lane says how far it is at most this often."""


class LaneOptions(BaseModel):
    """How a lane runs; the fields of `flows.lane.Lane` that a flow may set."""

    run: str
    batch_size: int = Field(ge=1, le=5000)
    tasks_in_flight: int = Field(ge=1, le=100_000)
    until_empty: bool
    max_seconds: float | None
    grace_s: float


def _may_succeed_next_time(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    # Prefect hands the exception over as the state's data. TimeoutError is an OSError too, but it is the
    # watchdog's: a lane that was stuck is not to be started again in the process it got stuck in.
    return isinstance(state.data, (QueueUnavailable, *TRANSIENT_ERRORS)) and not isinstance(
        state.data, TimeoutError
    )


@task(
    name="lane",
    task_run_name="lane-{number}",
    # Two lanes with equal parameters are two lanes.
    cache_policy=NO_CACHE,
    persist_result=False,
    # For a lane that lost Postgres. A lane whose process died is replaced by the flow: Prefect's retries
    # live in that process.
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=_may_succeed_next_time,
)
async def run_lane(number: int, queue: TaskQueue, organism: Organism, options: LaneOptions) -> LaneSummary:
    """Run one lane until it is stopped, out of time or, if asked, out of tasks.

    Args:
        number: Tells the lanes of one run apart.
        queue: The queue, with every field filled in.
        organism: Where its tasks run.
        options: How it runs.
    """
    logger = get_run_logger()
    last_line = 0.0

    def progress(summary: LaneSummary) -> None:
        nonlocal last_line
        now = asyncio.get_running_loop().time()
        if now - last_line > PROGRESS_LOG_S:
            last_line = now
            logger.info(
                "%s: %d completed, %d dead letters, %d to be retried",
                summary.lane,
                summary.completed,
                summary.failed,
                summary.retried,
            )

    async with queue.open(application_name="organism-lane") as open_queue:
        lane = Lane(
            open_queue,
            organism.client(),
            **options.model_dump(),
            logger=logger,
            on_settled=progress,
        )
        running = asyncio.create_task(lane.run())
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # Prefect's timeout cancels again at every await until its scope ends; without a scope of its
            # own the lane could not hand its tasks back.
            with anyio.CancelScope(shield=True):
                running.cancel()
                await asyncio.wait([running])
            raise


@dataclass(frozen=True, slots=True)
class LaneEnd:
    """How one lane ended."""

    number: int
    summary: LaneSummary | None
    error: str | None
    died: bool
    """Its process was gone: nobody but us can say so to Prefect."""


class LaneRun:
    """A lane on Ray, from the flow's side."""

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
        with remote_options(**cluster.lane_options()):
            future = cast(
                "PrefectRayFuture[LaneSummary]",
                run_lane.with_options(timeout_seconds=timeout_s).submit(number, queue, organism, options),
            )
        self.task_run_id: UUID = future.task_run_id
        self._ref = future.wrapped_future

    async def ended(self) -> LaneEnd:
        """Wait for the end, without blocking the flow's loop, so that timeouts and signals reach it."""
        try:
            state = await self._ref
        except ray.exceptions.RayError as error:
            what = f"its process died ({type(error).__name__})"
            await _mark_crashed(self.task_run_id, what)
            return LaneEnd(self.number, None, what, died=True)
        if state.is_completed():
            return LaneEnd(self.number, await state.aresult(), None, died=False)
        return LaneEnd(self.number, None, state.message or state.name, died=False)

    def kill(self) -> None:
        """Cancel the lane's Ray task: the last resort, after asking through the queue."""
        ray.cancel(self._ref)


async def _mark_crashed(task_run_id: UUID, why: str) -> None:
    # Prefect leaves such a run `Running` for ever (3.8.8 with prefect-ray 0.6.0).
    async with get_client() as client:
        await client.set_task_run_state(
            task_run_id, Crashed(message=f"The lane ended without a word: {why}."), force=True
        )
