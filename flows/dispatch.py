"""dispatch: claim → organism → settle, through lanes on Ray, until empty, out of time or cancelled."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated
from uuid import UUID

from prefect import flow, runtime
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Failed
from pydantic import Field

from organism_flows.blocks.errors import ConfigurationError, OrganismError, OrganismUnavailable
from organism_flows.blocks.prefect_blocks.organism import Organism
from organism_flows.blocks.prefect_blocks.ray_cluster import LaneTaskRunner, RayCluster
from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS, unavailable
from organism_flows.blocks.settings import load_settings
from organism_flows.blocks.versions import refuse_other_wire
from organism_flows.flows.prefect_support.states import ORGANISM_TAG, note_begun
from organism_flows.flows.supervision.handover import RELIEVE_AFTER_S, HandoverDecision, turn
from organism_flows.flows.supervision.lane_processes import prepare_lanes
from organism_flows.flows.supervision.lane_task import LaneOptions, LaneRun
from organism_flows.flows.supervision.supervisor import DispatchSummary, Supervisor

GRACE_S = 20.0
"""Grace period of calls in flight when a run is stopped, in seconds.

Below the 30 s after which Prefect's runner kills a flow process.
"""
LANE_OVERTIME_S = 8 * 86_400.0
"""Longest time a lane may take to leave, in seconds. Then it is stuck, and its task run times out.

A task may take seven days.
"""


def _run_name() -> str:
    lanes = runtime.flow_run.parameters.get("lanes", 1)
    return f"dispatch · {datetime.now():%H:%M} · {lanes} lane{'s' if lanes != 1 else ''}"


@flow(
    name="dispatch",
    version=ORGANISM_TAG,
    flow_run_name=_run_name,
    task_runner=LaneTaskRunner(),
    persist_result=False,
    retries=0,
)
async def dispatch(
    lanes: Annotated[int, Field(ge=1, le=64)] = 1,
    until_empty: bool = False,
    max_seconds: Annotated[float | None, Field(gt=0)] = None,
    batch_size: Annotated[int | None, Field(ge=1, le=5000)] = None,
    tasks_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 6000,
    relay: bool = False,
    relieve_after_s: Annotated[float, Field(ge=0)] = RELIEVE_AFTER_S,
    queue: str = "default",
    organism: str = "default",
    cluster: str = "default",
) -> DispatchSummary:
    """Process the queue: lanes on Ray claim tasks, call the organism and write the outcomes back.

    Args:
        lanes: Number of lanes that run at the same time.
        until_empty: Stop when no task runs, is ready or waits for another attempt.
        max_seconds: Stop claiming after this many seconds. The run ends when the tasks in flight have ended.
            Empty: no limit; without until_empty the run then goes on until it is stopped.
        batch_size: Upper bound on the tasks in one call to the organism; empty: ORGANISM_BATCH_SIZE.
        tasks_in_flight: Upper bound on the tasks that one lane holds. How many of them are of one type
            follows from how fast that type is processed.
        relay: For schedules. The run ends at once while another relay run works. Otherwise it goes on until
            another run relieves it, or its schedule is turned off. Has no effect with until_empty or
            max_seconds.
        relieve_after_s: Relieve a run that has worked for this many seconds. 0: relieve it in any case.
        queue: Name of the Task Queue block.
        organism: Name of the Organism block.
        cluster: Name of the Ray Cluster block.

    Returns:
        The counts of the run. The run ends as `Cancelled`, with its tasks handed back, when it is cancelled,
        terminated or interrupted. It ends as `Failed` when its lanes could not be kept running.

    Raises:
        ConfigurationError: A part that the run needs is not configured, or cannot be reached.
        QueueUnavailable: Postgres cannot be reached.
        OrganismUnavailable: The organism does not answer.
    """
    settings = load_settings()
    if not PREFECT_API_URL.value():
        # Each lane would start a Prefect server of its own, on one SQLite file.
        raise ConfigurationError(
            "no Prefect server for the lanes to report to: PREFECT_API_URL is not set",
            "run `organism up`, or set PREFECT_API_URL before importing this flow",
        )
    try:
        queue_block, organism_block, ray_block = await asyncio.gather(
            TaskQueue.named(queue), Organism.named(organism), RayCluster.named(cluster)
        )
        queue_block = queue_block.pinned()
        note_begun()
        async with queue_block.open(application_name="organism-dispatch", connections=2) as open_queue:
            since = await _now(open_queue)
            relay = relay and not until_empty and max_seconds is None
            its_turn = HandoverDecision()
            if relay:
                its_turn = turn(await open_queue.reader.lanes(), since, relieve_after_s=relieve_after_s)
            if its_turn.not_needed:
                line = f"not needed: {its_turn.not_needed}"
                get_run_logger().info(line)
                return Completed(message=line, data=DispatchSummary())  # type: ignore[return-value]
            await ray_block.connect()
            client = organism_block.client()
            health, _ = await asyncio.gather(client.health(), prepare_lanes(ray_block, lanes))
            if not health.organism_initialized:
                raise OrganismUnavailable(
                    f"the organism is {health.status}: not initialized", "run `organism status`"
                )
            refuse_other_wire(health)
            options = LaneOptions(
                run=str(runtime.flow_run.id),
                batch_size=batch_size or settings.batch_size,
                tasks_in_flight=tasks_in_flight,
                until_empty=until_empty,
                max_seconds=max_seconds,
                grace_s=GRACE_S,
                relay=relay,
                run_started_at=since,
            )

            def start_lane(number: int, seconds: float | None) -> LaneRun:
                timeout_s = None if seconds is None else seconds + LANE_OVERTIME_S
                lane = options.model_copy(update={"max_seconds": seconds})
                return LaneRun(number, ray_block, queue_block, organism_block, lane, timeout_s=timeout_s)

            stopping, at_once = asyncio.Event(), asyncio.Event()
            with _stop_on_signals(stopping, at_once):
                supervisor = Supervisor(
                    open_queue,
                    options,
                    start_lane,
                    lanes,
                    stopping,
                    client.cancel,
                    at_once=at_once,
                    relieve=its_turn.relieve,
                    deployment_id=_deployment() if relay else None,
                )
                return await supervisor.run()  # type: ignore[return-value]
    except OrganismError as error:
        # Return it: Prefect raises it where the flow was called. Raised here, it would be logged with a
        # traceback, and its message is one line.
        return Failed(message=str(error), data=error)  # type: ignore[return-value]


async def _now(queue: Queue) -> datetime:
    try:
        return await queue.reader.now()
    except TRANSIENT_ERRORS as error:
        raise unavailable(queue.dsn, error) from None


def _deployment() -> UUID | None:
    found = runtime.deployment.id
    return UUID(str(found)) if found else None


@contextmanager
def _stop_on_signals(stopping: asyncio.Event, at_once: asyncio.Event) -> Iterator[None]:
    """Set ``stopping`` on the first SIGTERM or SIGINT, and ``at_once`` on the second, within the block.

    A third signal reaches the handler that was installed before.

    `ray.init` replaces Prefect's own SIGTERM handler by one that raises SystemExit. An exception inside the
    event loop would leave lanes behind.
    """
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int) -> None:
        if not stopping.is_set():
            stopping.set()
            return
        at_once.set()
        loop.remove_signal_handler(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
