"""dispatch: claim → organism → settle, through lanes on Ray, until empty, out of time or cancelled."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Annotated
from uuid import UUID

import anyio
from prefect import flow, runtime
from prefect.artifacts import (
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Completed, Failed
from pydantic import BaseModel, Field

from blocks.errors import ConfigurationError, OrganismError, OrganismUnavailable
from blocks.organism import Organism
from blocks.queue import Queue
from blocks.queue.connection import TRANSIENT_ERRORS
from blocks.ray_cluster import LaneTaskRunner, RayCluster
from blocks.settings import load_settings
from blocks.task_queue import TaskQueue
from flows.calls import LaneSummary
from flows.lane_task import LaneEnd, LaneOptions, LaneRun

GRACE_S = 20.0
"""For calls in flight on stop; below the 30 s after which Prefect's runner kills a flow process."""
LANE_OVERTIME_S = 60.0
"""Beyond its time and its grace period a lane is stuck: the watchdog timeout of its task run."""
PROGRESS_INTERVAL_S = 1.0
REPLACEMENTS_A_LANE = 5
FAILURES_SHOWN = 100


class DispatchSummary(BaseModel):
    """What one dispatch run did. Lanes whose process died took their count with them; the table has it."""

    completed: int = 0
    failed: int = 0
    """Dead letters."""
    retried: int = 0
    """Attempts that failed or timed out and were, or will be, made again."""
    released: int = 0
    """Tasks handed back uncharged."""
    stale: int = 0
    """Outcomes refused because somebody else held the task by then."""
    claimed: int = 0
    calls: int = 0
    lanes: int = 0
    lanes_died: int = 0
    seconds: float = 0.0
    tasks_per_second: float = 0.0
    errors: list[str] = []
    """Why lanes ended that ended badly."""

    def add(self, lane: LaneSummary) -> None:
        """Count one lane in."""
        for name in ("completed", "failed", "retried", "released", "stale", "claimed", "calls"):
            setattr(self, name, getattr(self, name) + getattr(lane, name))


def _run_name() -> str:
    lanes = runtime.flow_run.parameters.get("lanes", 1)
    return f"dispatch · {datetime.now():%H:%M} · {lanes} lane{'s' if lanes != 1 else ''}"


@flow(
    name="dispatch",
    flow_run_name=_run_name,
    task_runner=LaneTaskRunner(),
    persist_result=False,
    retries=0,
)
async def dispatch(
    lanes: Annotated[int, Field(ge=1, le=64, description="How many lanes work side by side.")] = 1,
    until_empty: Annotated[
        bool, Field(description="Stop when nothing runs, is ready or waits for another attempt.")
    ] = False,
    max_seconds: Annotated[
        float | None, Field(gt=0, description="Stop claiming after so many seconds; empty: never.")
    ] = 600.0,
    batch_size: Annotated[
        int | None, Field(ge=1, le=5000, description="Most tasks a claim takes; empty: the setting's.")
    ] = None,
    tasks_in_flight: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="Most tasks a lane holds; of each type it takes what its pace allows.",
        ),
    ] = 4000,
    queue: Annotated[str, Field(description="Name of the Task Queue block.")] = "default",
    organism: Annotated[str, Field(description="Name of the Organism block.")] = "default",
    cluster: Annotated[str, Field(description="Name of the Ray Cluster block.")] = "default",
) -> DispatchSummary:
    """Work the queue off: lanes on Ray claim tasks, call the organism and write the outcomes back.

    Returns:
        What was done. The run ends Cancelled, with its tasks handed back, when it is cancelled, terminated or
        interrupted; Failed when lanes could not be kept running.

    Raises:
        ConfigurationError: Something the run needs is not configured or not reachable.
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
        queue_block = (await TaskQueue.named(queue)).pinned()
        organism_block = await Organism.named(organism)
        ray_block = await RayCluster.named(cluster)
        async with queue_block.open(application_name="organism-dispatch", connections=2) as open_queue:
            await ray_block.connect()
            health = await organism_block.client().health()
            if not health.get("organism_initialized"):
                raise OrganismUnavailable(
                    f"the organism is {health.get('status')}: not initialized", "look at `organism status`"
                )
            options = LaneOptions(
                run=str(runtime.flow_run.id),
                batch_size=batch_size or settings.batch_size,
                tasks_in_flight=tasks_in_flight,
                until_empty=until_empty,
                max_seconds=max_seconds,
                grace_s=GRACE_S,
            )

            def start_lane(number: int) -> LaneRun:
                timeout_s = None if max_seconds is None else max_seconds + GRACE_S + LANE_OVERTIME_S
                return LaneRun(number, ray_block, queue_block, organism_block, options, timeout_s=timeout_s)

            return await _Supervisor(open_queue, options, start_lane, lanes).run()  # type: ignore[return-value]
    except OrganismError as error:
        # Returned, and raised by Prefect where the flow was called: raised here it would be logged with a
        # traceback, and what it says is one line.
        return Failed(message=str(error), data=error)  # type: ignore[return-value]


class _Supervisor:
    """Keeps the lanes of one run going, shows how far they are, and stops them when the run is stopped."""

    def __init__(
        self, queue: Queue, options: LaneOptions, start_lane: Callable[[int], LaneRun], lanes: int
    ) -> None:
        self.queue = queue
        self.options = options
        self.start_lane = start_lane
        self.wanted = lanes
        self.summary = DispatchSummary()
        self.logger = get_run_logger()
        self.stopping = asyncio.Event()
        self.running: dict[asyncio.Task[LaneEnd], LaneRun] = {}
        self.replacements_left = REPLACEMENTS_A_LANE * lanes
        self.failed = False
        self.progress: _Progress | None = None

    async def run(self) -> State[DispatchSummary]:
        started = time.monotonic()
        since = await self.queue.now()
        if self.options.until_empty:
            self.progress = await _Progress.create(await self.queue.remaining())
        with _stop_on_signals(self.stopping):
            try:
                for number in range(1, self.wanted + 1):
                    self._start(number)
                await self._supervise()
            finally:
                # One way out for the end of the work, SIGTERM, Ctrl-C, timeouts and errors alike.
                with anyio.CancelScope(shield=True):
                    await self._stop_lanes()
        self.summary.seconds = time.monotonic() - started
        settled = self.summary.completed + self.summary.failed
        self.summary.tasks_per_second = round(settled / self.summary.seconds, 1)
        if self.progress:
            await self.progress.show(self.summary, await self.queue.remaining())
        await self._report_failures(since)
        return self._final_state()

    def _start(self, number: int) -> None:
        lane = self.start_lane(number)
        self.running[asyncio.create_task(lane.ended(), name=f"lane-{number}")] = lane
        self.summary.lanes += 1

    async def _supervise(self) -> None:
        stop = asyncio.create_task(self.stopping.wait())
        try:
            while self.running and not self.stopping.is_set():
                await asyncio.wait(
                    [stop, *self.running], timeout=PROGRESS_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED
                )
                for number in self._collect():
                    if self.replacements_left == 0:
                        self.failed = True
                        continue
                    self.replacements_left -= 1
                    self.logger.warning("starting a replacement for lane-%d", number)
                    self._start(number)
                if self.progress and self.running:
                    with suppress(*TRANSIENT_ERRORS):
                        await self.progress.show(None, await self.queue.remaining())
        finally:
            stop.cancel()

    def _collect(self) -> list[int]:
        """Count in the lanes that ended; returns the numbers of those whose process died."""
        died = []
        for ended in [task for task in self.running if task.done()]:
            lane = self.running.pop(ended)
            end = ended.result()
            if end.summary:
                self.summary.add(end.summary)
            else:
                line = f"lane-{lane.number}: {end.error}"
                self.logger.error(line)
                self.summary.errors.append(line)
                self.failed = self.failed or not end.died
            if end.died:
                self.summary.lanes_died += 1
                died.append(lane.number)
        return died

    async def _stop_lanes(self) -> None:
        if not self.running:
            return
        self.logger.info("stopping %d lanes, %g s for calls in flight", len(self.running), GRACE_S)
        deadline = time.monotonic() + GRACE_S + 3
        while self.running and time.monotonic() < deadline:
            # Asked again and again: a lane that is only starting has no row to be asked in yet.
            with suppress(*TRANSIENT_ERRORS):
                await self.queue.request_stop(self.options.run)
            await asyncio.wait(self.running, timeout=PROGRESS_INTERVAL_S)
            self._collect()
        for lane in self.running.values():
            lane.kill()
        if self.running:
            await asyncio.wait(self.running, timeout=2)
        self._collect()

    async def _report_failures(self, since: datetime) -> None:
        failures = await self.queue.failures_since(since, limit=FAILURES_SHOWN)
        if not failures:
            return
        await acreate_table_artifact(
            key="dispatch-failures",
            table=[
                {
                    "task": str(line.id),
                    "type": line.type,
                    "attempts": line.attempts,
                    "error": (line.error or "")[:300],
                }
                for line in failures
            ],
            description=f"Tasks that became dead letters during this run (newest {FAILURES_SHOWN} at most). "
            "Look at one with `organism tasks show <id>`.",
        )

    def _final_state(self) -> State[DispatchSummary]:
        s = self.summary
        line = (
            f"{s.completed} completed, {s.failed} dead letters, {s.retried} retried, "
            f"{s.released} handed back in {s.seconds:.1f} s ({s.tasks_per_second:g} tasks/s)"
        )
        self.logger.info(line)
        if self.stopping.is_set():
            # No data: Prefect would try to raise it.
            return Cancelled(message=f"Stopped and drained: {line}")
        if self.failed:
            return Failed(message=f"{s.errors[-1]}; {line}")
        return Completed(message=line, data=s)


class _Progress:
    """The progress artifact of a run that ends when the queue is empty."""

    def __init__(self, artifact: UUID, total: int) -> None:
        self._artifact = artifact
        self._total = max(total, 1)
        self._shown = 0.0

    @classmethod
    async def create(cls, total: int) -> _Progress:
        return cls(
            await acreate_progress_artifact(0.0, key="dispatch-progress", description=_left(total)), total
        )

    async def show(self, final: DispatchSummary | None, remaining: int) -> None:
        # More may have been submitted meanwhile; a bar that only grows is still true of what is left.
        self._total = max(self._total, remaining)
        percent = 100.0 * (1 - remaining / self._total)
        if final or percent != self._shown:
            self._shown = percent
            description = (
                f"{final.completed} completed, {final.failed} dead letters" if final else _left(remaining)
            )
            await aupdate_progress_artifact(self._artifact, percent, description=description)


def _left(tasks: int) -> str:
    return f"{tasks} tasks to go"


@contextmanager
def _stop_on_signals(stopping: asyncio.Event) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a stop, while the run lasts.

    `ray.init` replaces Prefect's own SIGTERM handler by one that raises SystemExit, and an exception inside
    the loop would leave lanes behind. A second signal does what it did before.
    """
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int) -> None:
        stopping.set()
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
