"""What dead processes leave behind in Prefect, and what would stay so for ever: runs nobody is running."""

from __future__ import annotations

import asyncio
from datetime import datetime
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectException
from prefect.states import Crashed
from pydantic import BaseModel

FLOWS = ("bootstrap", "dispatch", "redrive", "submit", "verify", "watchdog")
"""Ours; runs of other flows are not touched."""
PAGE = 200
"""Most runs looked at, which is also the most the server gives; the next watchdog finds the rest."""


class Debris(BaseModel):
    """What was found and put right."""

    flow_runs: int = 0
    """Had been ``Pending`` for too long, and are ``Crashed``."""
    task_runs: int = 0
    """Were ``Running`` under a flow run that had ended, and are ``Crashed``."""
    trouble: str | None = None
    """Why it was not all looked at."""


async def clear_debris(
    *, pending_before: datetime, ended_before: datetime, within_s: float, own_run: UUID | None = None
) -> Debris:
    """Mark runs of ours as crashed that nobody is running.

    Args:
        pending_before: A flow run that has been ``Pending`` since then will not start any more.
        ended_before: A task run is left over when its flow run had ended then. Those that live report their
            end late, through events.
        within_s: Seconds for all of it. What is not done by then is left to the next time.
        own_run: The flow run that asks.
    """
    debris = Debris()
    try:
        async with asyncio.timeout(within_s), get_client() as client:
            await _crash_pending_flow_runs(client, pending_before, own_run, debris)
            await _crash_orphaned_task_runs(client, ended_before, debris)
    except TimeoutError:
        debris.trouble = f"Prefect's server did not answer all of it within {within_s:g} s"
    except (HTTPError, PrefectException, OSError) as error:
        debris.trouble = f"Prefect's server: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return debris


def _ours() -> FlowFilter:
    return FlowFilter(name=FlowFilterName(any_=list(FLOWS)))


async def _crash_pending_flow_runs(
    client: PrefectClient, pending_before: datetime, own_run: UUID | None, debris: Debris
) -> None:
    pending = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING]))
    runs = await client.read_flow_runs(
        flow_filter=_ours(),
        flow_run_filter=FlowRunFilter(state=pending),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=PAGE,
    )
    for run in runs:
        if run.id == own_run or run.state is None or run.state.timestamp >= pending_before:
            continue
        # It may have started since the list was read.
        current = (await client.read_flow_run(run.id)).state
        if current is None or current.id != run.state.id:
            continue
        why = f"Pending since {run.state.timestamp:%Y-%m-%d %H:%M:%S}: nobody has started it."
        await client.set_flow_run_state(run.id, Crashed(message=why))
        debris.flow_runs += 1


async def _crash_orphaned_task_runs(client: PrefectClient, ended_before: datetime, debris: Debris) -> None:
    ended = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES)))
    running = TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING]))
    runs = await client.read_task_runs(
        flow_filter=_ours(),
        flow_run_filter=FlowRunFilter(state=ended, end_time=FlowRunFilterEndTime(before_=ended_before)),
        task_run_filter=TaskRunFilter(state=running),
        limit=PAGE,
    )
    for run in runs:
        why = "Its flow run had ended, and it was still Running: its process died."
        # Forced: the rules for a change of state are those of a run that is still alive.
        await client.set_task_run_state(run.id, Crashed(message=why), force=True)
        debris.task_runs += 1
