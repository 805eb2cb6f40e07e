"""Hand-over between runs of dispatch: which one works, and when the next takes over.

The schedule starts a run every few minutes. While a run works and is young enough, the others end at once.
An old run is relieved: its lanes leave when the lanes of the new run claim tasks. So there is no gap, and the
old lanes finish the tasks that they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import get_client

from organism_flows.blocks.queue.models.lanes import LaneRow

RELIEVE_AFTER_S = 3600.0
"""Age at which a run is relieved, in seconds.

This bounds the life of its processes: what they leak, and the code and settings they were started with.
"""
LEAVING_LIMIT = 1
"""Number of leaving runs at which no further run is relieved for its age.

A leaving run keeps its flow process and its lanes for as long as its longest task. Without this limit, tasks
that take hours would add a leaving run every hour.
"""
SCHEDULE_CHECK_S = 20.0
"""Time between two checks whether the schedule that started a run is still on, in seconds."""


@dataclass(frozen=True)
class HandoverDecision:
    """Decision for a run that has just begun."""

    relieve: tuple[str, ...] = ()
    """Ids of the runs whose lanes are asked to leave once the lanes of this run claim tasks."""
    not_needed: str | None = None
    """Why the run should end at once; `None` if it should work."""


def turn(lanes: Sequence[LaneRow], now: datetime, *, relieve_after_s: float) -> HandoverDecision:
    """Decide whether a new relay run works, and which runs it relieves.

    Args:
        lanes: All rows of the lanes table.
        now: Current time of the database's clock.
        relieve_after_s: Age in seconds at which a run is relieved; 0: relieve it in any case.
    """
    live = [lane for lane in lanes if lane.relay and lane.live and lane.run]
    working = {lane.run: lane.run_started_at or lane.started_at for lane in live if lane.claiming}
    if not working:
        return HandoverDecision()
    leaving = {lane.run for lane in live} - set(working)
    youngest, started = max(working.items(), key=lambda item: item[1])
    age_s = (now - started).total_seconds()
    if age_s < relieve_after_s:
        return HandoverDecision(not_needed=f"run {youngest} works since {started:%Y-%m-%d %H:%M:%S %Z}")
    if relieve_after_s > 0 and len(leaving) >= LEAVING_LIMIT:
        return HandoverDecision(
            not_needed=f"run {youngest} works on until {_names(leaving)} has left, which waits for its tasks"
        )
    return HandoverDecision(relieve=tuple(sorted(str(run) for run in working)))


def superfluous(lanes: Sequence[LaneRow], run: str, relieving: Sequence[str]) -> bool:
    """Return True if another relay run began to work before ``run`` and is not in ``relieving``."""
    working = {
        lane.run: (lane.run_started_at or lane.started_at, lane.run)
        for lane in lanes
        if lane.relay and lane.claiming and lane.run and lane.run not in relieving
    }
    return run in working and min(working.values())[1] != run


async def schedule_is_on(deployment_id: UUID) -> bool:
    """Return True if the deployment is not paused and has a schedule that is on.

    Raises:
        Exception: Any error of Prefect's client.
    """
    async with get_client() as client:
        deployment = await client.read_deployment(deployment_id)
    return not deployment.paused and any(schedule.active for schedule in deployment.schedules)


def _names(runs: set[str | None]) -> str:
    return ", ".join(sorted(str(run) for run in runs))
