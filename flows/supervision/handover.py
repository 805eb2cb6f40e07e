"""Runs of dispatch that relieve one another: which one works, and when the next takes over.

The schedule starts a run every few minutes. While one works, and is young enough, the others end at once.
One that is old is relieved: its lanes leave when those of the new run are there, so there is no gap, and the
tasks they hold run to their end under them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import get_client

from organism_flows.blocks.queue.lane_models import LaneRow

RELIEVE_AFTER_S = 3600.0
"""A run is relieved after so long: what leaks in its processes, and what they were started with, goes with
them."""
LEAVING_LIMIT = 1
"""Runs that may be leaving when one is relieved for its age. Each holds a flow process and its lanes for as
long as its longest task, so with tasks of hours there would else be a new one every hour."""
SCHEDULE_CHECK_S = 20.0
"""Between two looks at whether the schedule that started a run is still on."""


@dataclass(frozen=True)
class HandoverDecision:
    """What a run that has just begun is to do."""

    relieve: tuple[str, ...] = ()
    """Runs whose lanes are to leave when this one's are there."""
    not_needed: str | None = None
    """Why it should end at once."""


def turn(lanes: Sequence[LaneRow], now: datetime, *, relieve_after_s: float) -> HandoverDecision:
    """Decide what a new run of the relay is to do.

    Args:
        lanes: The lanes table.
        now: By the database's clock.
        relieve_after_s: A run that has worked for so long is relieved; 0: relieve it in any case.
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
    """Whether another run of the relay, which ``run`` does not relieve, began to work before it."""
    working = {
        lane.run: (lane.run_started_at or lane.started_at, lane.run)
        for lane in lanes
        if lane.relay and lane.claiming and lane.run and lane.run not in relieving
    }
    return run in working and min(working.values())[1] != run


async def schedule_is_on(deployment_id: UUID) -> bool:
    """Whether the deployment has a schedule that is on, and is not paused.

    Raises:
        Exception: Whatever Prefect's client raises.
    """
    async with get_client() as client:
        deployment = await client.read_deployment(deployment_id)
    return not deployment.paused and any(schedule.active for schedule in deployment.schedules)


def _names(runs: set[str | None]) -> str:
    return ", ".join(sorted(str(run) for run in runs))
