"""Ends stale runs in Prefect: runs that no process runs any more would stay as they are for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterFlowVersion,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.events.schemas.events import ReceivedEvent
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Crashed
from pydantic import BaseModel

from organism_flows.blocks.errors import PrefectUnavailable
from organism_flows.flows.prefect_support.server import prefect_client
from organism_flows.flows.prefect_support.states import ORGANISM_TAG

FLOW_NAMES = ("bootstrap", "dispatch", "redrive", "submit", "verify", "watchdog")
HEARTBEAT = "prefect.flow-run.heartbeat"
SILENT_FOR = timedelta(minutes=10)
"""Least silence after which a run that has sent heartbeats is dead. By default they come every 3 minutes."""
SILENT_BEATS = 3
"""Number of heartbeats that have to be missing before a run is dead."""
PAGE = 200
"""Upper bound on the runs read at once, which is the server's own. The next check finds the rest."""


class StaleRuns(BaseModel):
    """Numbers of stale runs that were ended."""

    flow_runs: int = 0
    """Flow runs that no process ran; now ``Crashed``."""
    task_runs: int = 0
    """Task runs that were ``Running`` under a flow run that had ended; now ``Crashed``."""
    late: int = 0
    """Flow runs that were ``Late`` when a later one of their deployment was, too; now ``Cancelled``."""
    trouble: str | None = None
    """Why not all runs were checked; `None` if they were."""


async def clean_up_stale_runs(
    *,
    pending_before: datetime,
    ended_before: datetime,
    within_s: float,
    own_run: UUID | None = None,
    live: Collection[str] = (),
) -> StaleRuns:
    """Mark those of our runs as crashed that no process runs, and cancel late runs except the newest.

    Args:
        pending_before: A flow run that has been ``Pending`` since before this time will not start any more.
        ended_before: A running task run is stale if its flow run had ended before this time. Live task runs
            report their end late, through events.
        within_s: Time for all of it, in seconds. The rest is left to the next call.
        own_run: The flow run that calls.
        live: Ids of flow runs that have live lanes. They are not dead, whatever Prefect knows of them.
    """
    stale = StaleRuns()
    try:
        async with prefect_client(within_s) as client:
            await _crash_pending_flow_runs(client, pending_before, own_run, stale)
            await _crash_silent_flow_runs(client, {*live, str(own_run)}, stale)
            await _crash_orphaned_task_runs(client, ended_before, stale)
            await _cancel_late_flow_runs(client, stale)
    except PrefectUnavailable as error:
        stale.trouble = error.what
    return stale


def _flows() -> FlowFilter:
    return FlowFilter(name=FlowFilterName(any_=list(FLOW_NAMES)))


def _ours(state: FlowRunFilterState, *, ended: FlowRunFilterEndTime | None = None) -> list[FlowRunFilter]:
    """Return filters for our runs in ``state``: those of deployments, and those of notebooks and programs."""
    return [
        FlowRunFilter(state=state, end_time=ended, tags=FlowRunFilterTags(all_=[ORGANISM_TAG])),
        # Flow runs of a deployment have no flow version.
        FlowRunFilter(
            state=state, end_time=ended, flow_version=FlowRunFilterFlowVersion(any_=[ORGANISM_TAG])
        ),
    ]


async def _runs(
    client: PrefectClient, state: FlowRunFilterState, sort: FlowRunSort
) -> AsyncIterator[FlowRun]:
    seen: set[UUID] = set()
    for ours in _ours(state):
        runs = await client.read_flow_runs(flow_filter=_flows(), flow_run_filter=ours, sort=sort, limit=PAGE)
        for run in runs:
            if run.id not in seen:
                seen.add(run.id)
                yield run


async def _end(client: PrefectClient, run: FlowRun, state: State[Any]) -> bool:
    """Put ``run`` into a final state, and return True. If its state changed meanwhile, return False."""
    current = (await client.read_flow_run(run.id)).state
    if current is None or run.state is None or current.id != run.state.id:
        return False
    await client.set_flow_run_state(run.id, state)
    return True


async def _crash_pending_flow_runs(
    client: PrefectClient, pending_before: datetime, own_run: UUID | None, stale: StaleRuns
) -> None:
    pending = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING]))
    async for run in _runs(client, pending, FlowRunSort.EXPECTED_START_TIME_ASC):
        if run.id == own_run or run.state is None or run.state.timestamp >= pending_before:
            continue
        why = f"Pending since {run.state.timestamp:%Y-%m-%d %H:%M:%S}: no worker has started it."
        stale.flow_runs += await _end(client, run, Crashed(message=why))


async def _crash_silent_flow_runs(client: PrefectClient, live: Collection[str], stale: StaleRuns) -> None:
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    heard: datetime | None = None
    async for run in _runs(client, running, FlowRunSort.START_TIME_ASC):
        if str(run.id) in live:
            continue
        beats = await _events(
            client,
            EventFilter(
                event=EventNameFilter(name=[HEARTBEAT]),
                resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
            ),
            2,
        )
        if not beats:  # heartbeats are turned off, or the first is not due yet
            continue
        # Compare with the server's newest event: while it receives no events at all, silence proves nothing.
        heard = heard or (await _events(client, EventFilter(), 1))[0].received
        if (silent := heard - beats[0].received) > _patience(beats):
            why = f"No heartbeat for {silent.total_seconds() / 60:.0f} minutes: its process died."
            stale.flow_runs += await _end(client, run, Crashed(message=why))


async def _events(client: PrefectClient, wanted: EventFilter, limit: int) -> list[ReceivedEvent]:
    """Return the newest events, the newest first."""
    return list((await client.read_events(wanted, limit=limit)).events)


def _patience(beats: list[ReceivedEvent]) -> timedelta:
    """Return how long a run may be silent, given its last two heartbeats or its only one."""
    every = timedelta(seconds=get_current_settings().flows.heartbeat_frequency or 0)
    if len(beats) > 1:
        every = max(every, beats[0].received - beats[1].received)
    return max(SILENT_FOR, every * SILENT_BEATS)


async def _crash_orphaned_task_runs(client: PrefectClient, ended_before: datetime, stale: StaleRuns) -> None:
    ended = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES)))
    running = TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING]))
    for ours in _ours(ended, ended=FlowRunFilterEndTime(before_=ended_before)):
        runs = await client.read_task_runs(
            flow_filter=_flows(),
            flow_run_filter=ours,
            task_run_filter=TaskRunFilter(state=running),
            limit=PAGE,
        )
        for run in runs:
            why = "Its flow run had ended, and it was still Running: its process died."
            # Forced, because the rules for changes of state assume a run that is alive.
            await client.set_task_run_state(run.id, Crashed(message=why), force=True)
            stale.task_runs += 1


async def _cancel_late_flow_runs(client: PrefectClient, stale: StaleRuns) -> None:
    """Cancel the late runs that schedules have created, except the newest of each deployment."""
    late = FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"]))
    kept: set[UUID | None] = set()
    async for run in _runs(client, late, FlowRunSort.EXPECTED_START_TIME_DESC):
        if not run.auto_scheduled:
            continue
        if run.deployment_id in kept:
            stale.late += await _end(client, run, Cancelled(message="Late, and so is the next one."))
        kept.add(run.deployment_id)
