"""Supervisor of one dispatch run: notices lanes that end, hang or fall silent, and replaces them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from math import inf
from uuid import UUID

import anyio
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Failed
from pydantic import BaseModel

from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS, unavailable
from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.flows.lanes.lease import RENEWALS_A_LEASE
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.prefect_support.states import show, wait_for_prefect
from organism_flows.flows.supervision import handover
from organism_flows.flows.supervision.lane_liveness import LaneLiveness
from organism_flows.flows.supervision.lane_task import LaneEnd, LaneOptions, LaneRun
from organism_flows.flows.supervision.run_page import FAILURES_SHOWN, DispatchProgress, report_failures

CHECK_INTERVAL_S = 1.0
"""Time between two checks of the lanes, in seconds."""
PROGRESS_INTERVAL_S = 5.0
"""Shortest time between two counts of the unfinished tasks, in seconds."""
PROGRESS_SHARE = 50
"""Upper bound on the share of time spent on these counts, as 1/N. A count of more tasks takes longer."""
PREFECT_WAIT_S = 600.0
"""Longest wait for a Prefect server that is away, in seconds, so that the run can report how it ended."""
STOPPED_WAIT_S = 3.0
"""The same for a run that was stopped."""
MARKS_WAIT_S = 10.0
SCHEDULE_TIMEOUT_S = 5.0
REPLACEMENTS_A_LANE = 5
LONG_LIFE_S = 60.0
"""Age from which a dead lane is replaced without counting, in seconds: it is not its start that fails."""
HAND_BACK_S = 5.0
"""Time after its grace period for a lane to stop its handlers and hand their tasks back, in seconds."""


class DispatchSummary(BaseModel):
    """Result of one dispatch run."""

    completed: int = 0
    failed: int = 0
    """Dead letters."""
    cancelled: int = 0
    retried: int = 0
    """Attempts that failed or timed out and were, or will be, made again."""
    released: int = 0
    """Tasks handed back with the attempt not charged."""
    stale: int = 0
    """Outcomes refused because another claim held the task by then."""
    claimed: int = 0
    calls: int = 0
    lanes: int = 0
    lanes_died: int = 0
    """Lanes that ended without a summary: killed, hung or without Postgres."""
    settled_by_dead_lanes: int = 0
    """Tasks that those lanes had settled by their last heartbeat, with any outcome.

    No other count includes them. What those lanes settled after it is in no count, only in the table.
    """
    seconds: float = 0.0
    tasks_per_second: float = 0.0
    errors: list[str] = []
    """Errors of the lanes that ended with an error."""

    def add(self, lane: LaneSummary) -> None:
        """Add the counts of one lane."""
        for name in ("completed", "failed", "cancelled", "retried", "released", "stale", "claimed", "calls"):
            setattr(self, name, getattr(self, name) + getattr(lane, name))


class Supervisor:
    """Runs ``lanes`` lanes until they end, are asked to leave, or ``stopping`` is set.

    Args:
        queue: An open queue.
        options: Options of the lanes.
        start_lane: Starts the lane with this number, to run for this many seconds; `None`: no limit.
        lanes: Number of lanes.
        stopping: Event that stops the run.
        stop_runs: Stops the handlers that run these tasks under the given claim, or an older one. The claims
            are given by task id.
        relieve: Ids of the runs whose lanes are asked to leave once the lanes of this run claim tasks.
        deployment_id: The deployment that started a relay run: the lanes leave when its schedule is turned
            off. `None` for other runs.
        at_once: Event that ends the grace period of a stop.
    """

    def __init__(
        self,
        queue: Queue,
        options: LaneOptions,
        start_lane: Callable[[int, float | None], LaneRun],
        lanes: int,
        stopping: asyncio.Event,
        stop_runs: Callable[[Mapping[str, int]], Awaitable[None]],
        *,
        relieve: Sequence[str] = (),
        deployment_id: UUID | None = None,
        at_once: asyncio.Event | None = None,
    ) -> None:
        self.queue = queue
        self.options = options
        self.start_lane = start_lane
        self.wanted = lanes
        self.summary = DispatchSummary()
        self.logger = get_run_logger()
        self.stopping = stopping
        self.stop_runs = stop_runs
        self.relieving = tuple(relieve)
        self.relieved = not relieve
        self.deployment_id = deployment_id
        self.schedule_due = time.monotonic()
        self.scheduled = False
        """The schedule has been on during this run: if it is turned off, the lanes leave."""
        self.leaving = False
        """The lanes leave, so none is replaced."""
        self.at_once = at_once or asyncio.Event()
        self.started = time.monotonic()
        self.running: dict[asyncio.Task[LaneEnd], LaneRun] = {}
        self.liveness: dict[int, LaneLiveness] = {}
        """Liveness of the running lanes, by number."""
        self.dead: dict[int, LaneLiveness] = {}
        """Liveness of the lanes that ended without closing their lease, by number."""
        self.missing: list[int] = []
        """Numbers of the lanes to replace as soon as Postgres answers."""
        self.replaced: set[int] = set()
        """Numbers of the lanes that were replaced when they began to leave by themselves."""
        self.replacements_left = REPLACEMENTS_A_LANE * lanes
        self.failed = False
        self.marks: list[asyncio.Task[None]] = []
        """Tasks that mark lanes that died as crashed in Prefect."""
        self.stop_requests: set[asyncio.Task[None]] = set()
        self.progress: DispatchProgress | None = None
        self.progress_due = 0.0
        self.showing: asyncio.Task[None] | None = None
        """Task that sends progress to Prefect."""

    async def run(self) -> State[DispatchSummary]:
        """Run the lanes, and return the final state of the flow run."""
        try:
            since = await self.queue.reader.now()
            remaining = await self.queue.reader.remaining() if self.options.until_empty else None
        except TRANSIENT_ERRORS as error:
            raise unavailable(self.queue.dsn, error) from None
        if remaining is not None:
            self.progress = DispatchProgress(remaining)
            self.progress_due = time.monotonic() + PROGRESS_INTERVAL_S
        try:
            for _ in range(self.wanted):
                self._start()
            await self._supervise()
        finally:
            # The end of the work, SIGTERM, Ctrl-C, timeouts and errors all come through here.
            with anyio.CancelScope(shield=True):
                await self._stop_lanes()
        s = self.summary
        s.seconds = time.monotonic() - self.started
        s.tasks_per_second = round((s.completed + s.failed) / s.seconds, 1)
        await self._report(since)
        return self._final_state()

    def _start(self) -> None:
        left = self._left_s()
        if left <= 0:
            return
        # Never use a number twice: the row of a dead lane must not be taken for that of its replacement.
        number = self.summary.lanes = self.summary.lanes + 1
        lane = self.start_lane(number, None if left == inf else left)
        self.running[asyncio.create_task(lane.ended(), name=f"lane-{number}")] = lane
        self.liveness[number] = LaneLiveness(self.queue.lease_s, time.monotonic())

    async def _supervise(self) -> None:
        stop = asyncio.create_task(self.stopping.wait())
        try:
            while (self.running or self.missing) and not self.stopping.is_set():
                await asyncio.wait(
                    [stop, *self.running], timeout=CHECK_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED
                )
                self._collect()
                with suppress(*TRANSIENT_ERRORS):
                    await self._check()
        finally:
            stop.cancel()

    async def _check(self) -> None:
        """Read the lanes table: kill lanes that hang, replace those that died if Postgres takes writes."""
        lanes = await self.queue.reader.lanes()
        rows = {row.number: row for row in lanes if row.run == self.options.run}
        self.leaving = self.leaving or any(row.leave_requested for row in rows.values())
        for lane in self.running.values():
            seen, now = self.liveness[lane.number], time.monotonic()
            seen.record(rows.get(lane.number), now)
            if trouble := seen.trouble(now):
                # This kills its process wherever it runs and whatever it does, and so ends the lane.
                lane.kill(trouble)
            self._replace_leaving(lane.number, rows.get(lane.number))
        await self._take_back(rows)
        if self.leaving:
            self.missing.clear()
        if self.missing:
            # If the database can be read but not written, each replacement would fail at its start.
            await self.queue.health.check_writes()
        for number in self.missing:
            self.logger.warning("replacing lane-%d", number)
            self._start()
        self.missing.clear()
        if self.options.relay and not self.leaving:
            await self._hand_over(lanes)
        if self.progress and self.running and time.monotonic() >= self.progress_due:
            started = time.monotonic()
            remaining = await self.queue.reader.remaining()
            took = time.monotonic() - started
            self.progress_due = started + max(PROGRESS_INTERVAL_S, PROGRESS_SHARE * took)
            if self.showing is None or self.showing.done():
                # Do not wait for it: lanes are supervised whether or not Prefect's server answers.
                self.showing = asyncio.create_task(show(self.progress.show(remaining)))

    def _replace_leaving(self, number: int, row: LaneRow | None) -> None:
        """Replace a lane that leaves though nobody asked it to: Ray takes its node away.

        It may hold its last tasks until the end of the node, and nobody would claim meanwhile.
        """
        if row is not None and row.leaving_at is not None and not row.stop_requested:
            self._replace(number)

    def _replace(self, number: int) -> None:
        """Start another lane in place of one that leaves, once."""
        over = self.leaving or self._left_s() <= 0
        if number not in self.replaced and not over and self.replacements_left:
            self.replacements_left -= 1
            self.replaced.add(number)
            self.missing.append(number)

    def _left_s(self) -> float:
        """Return the time that lanes still have to claim, in seconds."""
        limit_s = self.options.max_seconds
        return inf if limit_s is None else limit_s - (time.monotonic() - self.started)

    async def _hand_over(self, lanes: Sequence[LaneRow]) -> None:
        """Relieve older runs once all our lanes claim tasks, and leave if this run is not needed."""
        ours = {row.number for row in lanes if row.run == self.options.run and row.claiming}
        if not self.relieved and len(ours) >= self.wanted:
            for run in self.relieving:
                self.logger.info("taking over from run %s", run)
                await self.queue.operator.request_leave(run)
            self.relieved = True
        why = None
        if handover.superfluous(lanes, self.options.run, self.relieving):
            why = "another run of dispatch works already"
        elif self.deployment_id and time.monotonic() >= self.schedule_due:
            self.schedule_due = time.monotonic() + handover.SCHEDULE_CHECK_S
            # Work goes on without Prefect's server.
            with suppress(Exception):
                async with asyncio.timeout(SCHEDULE_TIMEOUT_S):
                    on = await handover.schedule_is_on(self.deployment_id)
                    why = "its schedule was turned off" if self.scheduled and not on else None
                    self.scheduled = self.scheduled or on
        if why:
            self.logger.info("leaving: %s", why)
            await self.queue.operator.request_leave(self.options.run)
            self.leaving = True

    async def _rows(self) -> dict[int | None, LaneRow]:
        """Return the rows of this run's lanes by number. For a lane that began again it is the newest row."""
        return {row.number: row for row in await self.queue.reader.lanes() if row.run == self.options.run}

    async def _take_back(self, rows: dict[int | None, LaneRow]) -> None:
        """Take back the tasks of dead lanes at once: a second after a kill instead of a lease after it."""
        for number, seen in list(self.dead.items()):
            seen.record(rows.get(number), time.monotonic())
            for lane in seen.ids:
                # A lane that survived notices it at its next renewal, and its claims are stale by then.
                await self.queue.leases.deregister(lane)
            reaped = await self.queue.leases.reap()
            if reaped.runs:
                # Do not wait for it: lanes are supervised whether or not the organism answers.
                request = asyncio.create_task(self._stop_left_behind(reaped.runs))
                self.stop_requests.add(request)
                request.add_done_callback(self.stop_requests.discard)
            del self.dead[number]
            self.summary.settled_by_dead_lanes += seen.settled()

    async def _stop_left_behind(self, runs: Mapping[str, int]) -> None:
        try:
            await self.stop_runs(runs)
        except OrganismError as error:
            self.logger.warning("what dead lanes left running could not be stopped: %s", error)

    def _collect(self) -> None:
        """Add the counts of the lanes that ended, and note which ones to replace."""
        for ended in [task for task in self.running if task.done()]:
            lane = self.running.pop(ended)
            seen = self.liveness.pop(lane.number)
            end = ended.result()
            if lane.marked:
                self.marks.append(lane.marked)
            if end.summary:
                self.summary.add(end.summary)
                self.summary.settled_by_dead_lanes += seen.settled(without=end.summary.lane)
                if end.summary.node_drained:  # at once: its row was not seen leaving
                    self._replace(lane.number)
                continue
            line = f"lane-{lane.number}: {end.error}"
            self.logger.error(line)
            self.summary.errors.append(line)
            if not end.lost:
                self.failed = True
                continue
            self.summary.lanes_died += 1
            self.dead[lane.number] = seen
            if self.leaving or lane.number in self.replaced:
                continue
            if lane.age_s < LONG_LIFE_S:
                if self.replacements_left == 0:
                    self.failed = True
                    continue
                self.replacements_left -= 1
            self.missing.append(lane.number)

    async def _stop_lanes(self) -> None:
        grace_s = self.options.grace_s
        if self.running:
            self.logger.info(
                "stopping %d lanes: they claim nothing more; what runs has %g s to end and is then handed "
                "back, uncharged (a second signal: at once)",
                len(self.running),
                grace_s,
            )
        # A lane without notifications, as behind a pooler, learns of the stop by a renewal of its lease. Its
        # grace period begins then.
        deadline = time.monotonic() + grace_s + self.queue.lease_s / RENEWALS_A_LEASE + HAND_BACK_S
        while self.running and time.monotonic() < deadline and not self.at_once.is_set():
            # Repeat the request: a lane that is still starting has no row yet that could carry it.
            with suppress(*TRANSIENT_ERRORS):
                await self.queue.operator.request_stop(self.options.run)
            await asyncio.wait(self.running, timeout=CHECK_INTERVAL_S)
            self._collect()
        why = "it was stopped at once" if self.at_once.is_set() else f"it did not end within {grace_s:g} s"
        for end_lane, patience_s in ((LaneRun.cancel, 2.0), (LaneRun.give_up, 1.0)):
            for lane in self.running.values():
                end_lane(lane, why)
            if self.running:
                await asyncio.wait(self.running, timeout=patience_s)
            self._collect()
        with suppress(*TRANSIENT_ERRORS):
            await self._take_back(await self._rows())

    async def _report(self, since: datetime) -> None:
        """Show the results on the run's page and wait until Prefect can take the final state."""
        # A run that was stopped must end soon, even if the server is away.
        await wait_for_prefect(STOPPED_WAIT_S if self.stopping.is_set() else PREFECT_WAIT_S)
        with suppress(*TRANSIENT_ERRORS):
            if self.progress:
                if self.showing:
                    await asyncio.wait([self.showing])
                outcome = f"{self.summary.completed} completed, {self.summary.failed} dead letters"
                await show(self.progress.show(await self.queue.reader.remaining(), outcome=outcome))
            failures = await self.queue.health.failures_since(since, limit=FAILURES_SHOWN)
            await show(report_failures(failures, self.queue.dsn))
        if self.marks:
            _, late = await asyncio.wait(self.marks, timeout=MARKS_WAIT_S)
            for mark in late:
                mark.cancel()

    def _final_state(self) -> State[DispatchSummary]:
        s = self.summary
        line = (
            f"{s.completed} completed, {s.failed} dead letters, {s.retried} retried, "
            f"{s.released} handed back in {s.seconds:.1f} s ({s.tasks_per_second:g} tasks/s)"
        )
        if s.lanes_died:
            line += (
                f"; {s.lanes_died} lanes died and had settled {s.settled_by_dead_lanes} more when last heard"
            )
        self.logger.info(line)
        if self.stopping.is_set():
            # No data: Prefect would try to raise it.
            return Cancelled(message=f"Stopped and drained: {line}")
        if self.failed:
            return Failed(message=f"{s.errors[-1]}; {line}")
        return Completed(message=line, data=s)
