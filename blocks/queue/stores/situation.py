"""What of the queue decides why a task is where it is, read in one snapshot."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.explain import QueueSituation, RunningOfType
from organism_flows.blocks.queue.explain.forecast import LinePace, Wait, begin_of, room_after
from organism_flows.blocks.queue.explain.order import TaskOrder
from organism_flows.blocks.queue.explain.waiting import AHEAD_LIMIT, WHOLE
from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.blocks.queue.models.limits import LimitRoom
from organism_flows.blocks.queue.models.operations import Pause, TypePolicy
from organism_flows.blocks.queue.models.rows import TaskRow
from organism_flows.blocks.queue.stores.claiming.limits import room_of
from organism_flows.blocks.queue.stores.operator import policy_of

PACE_WINDOW_S = 3600.0
"""How far back it is read what a line has done, in seconds."""
ENDED_READ = 10_000
"""Most tasks of each status that are read for it, of all lines together."""
BEGUN_READ = 5_000
"""Most tasks of the line itself."""
HELD_READ = 1_000
"""Most running tasks of a limit that are read."""
DURATIONS_READ = 500
"""Most tasks of its types that have ended."""
MEASURED_S = 1.0
"""Shortest time over which a rate is measured, in seconds."""


async def read_situation(session: Session, task: TaskRow, served: Collection[str] | None) -> QueueSituation:
    """Return what decides why ``task`` is where it is.

    Args:
        session: Session in whose snapshot the task was read.
        task: The task.
        served: Types that have an organ. `None` means not known.
    """
    now = await session.fetchval("now")
    waits = task.status in ("queued", "retry")
    limits, closures = await room_of(session, task.type, task.key or "", task.cost) if waits else ([], [])
    of_type = None
    if waits or task.status == "running":
        of_type = RunningOfType(**await session.fetchrow("of_type", type=task.type, id=task.id))
    ahead = order = None
    if waits:
        order = await _order(session, task)
        ahead = await _ahead(session, task, order)
    begins = rooms = None
    if ahead is not None and task.run_after <= now:
        begins = await _begins(session, task, ahead)
        rooms = {limit.name: await _room(session, limit) for limit in limits if _is_full(limit)}
    return QueueSituation(
        now=now,
        pauses=[Pause(**row) for row in await session.fetch("pauses")],
        lanes=[LaneRow(**row) for row in await session.fetch("lanes")],
        ahead=ahead,
        served=served,
        of_type=of_type,
        limits=limits,
        closures=closures,
        order=order,
        begins=begins,
        rooms={name: seconds for name, seconds in (rooms or {}).items() if seconds is not None},
    )


async def _begins(session: Session, task: TaskRow, ahead: int) -> Wait | None:
    """Return when a due task begins, by what its line did lately."""
    row = await session.fetchrow(
        "line_pace", **_line(task), window_s=PACE_WINDOW_S, read=ENDED_READ, most=BEGUN_READ
    )
    return begin_of(
        LinePace(
            began=row["began"],
            due=row["due"],
            known_s=row["known_s"],
            waits_s=row["waits_s"],
            ahead=ahead,
            more=ahead >= AHEAD_LIMIT,
            held=row["held"],
            took_s=row["took_s"],
        )
    )


def _is_full(limit: LimitRoom) -> bool:
    return limit.kind == "running" and limit.amount > 0 and limit.opens_s is None and limit.room < WHOLE


async def _room(session: Session, limit: LimitRoom) -> tuple[float, float] | None:
    """Return when a limit on what runs allows another task, by how long tasks of its types took lately."""
    row = await session.fetchrow(
        "limit_pace",
        name=limit.name,
        key=limit.key,
        window_s=PACE_WINDOW_S,
        held=HELD_READ,
        read=ENDED_READ,
        most=DURATIONS_READ,
    )
    return room_after(row["ages"], row["durations"]) if row else None


async def _order(session: Session, task: TaskRow) -> TaskOrder:
    """Return what the type of a task that waits asks of the order, and how fast it is if that matters."""
    rows = await session.fetch("policies")
    policy = next((policy_of(row) for row in rows if row["type"] == task.type), None)
    order = TaskOrder(policy or TypePolicy.model_construct(type=task.type))
    if task.expires_at is None:
        return order
    lately = await session.fetchrow("completed_lately", type=task.type)
    if lately is None or not lately["of_type"]:
        return order
    return replace(order, rate=lately["of_type"] / max(lately["seconds"], MEASURED_S))


async def _ahead(session: Session, task: TaskRow, order: TaskOrder) -> int:
    """Return how many tasks of its line are claimed before a task that waits, as far as they are counted."""
    place = {**_line(task), "run_after": task.run_after, "id": task.id}
    if order.policy.earliest_deadline:
        ahead = await session.fetchval("ahead_by_deadline", **place, expires_at=task.expires_at)
    else:
        ahead = await session.fetchval("ahead", **place)
    return int(ahead)


def _line(task: TaskRow) -> dict[str, Any]:
    return {
        "type": task.type,
        "priority": task.priority,
        "domain": task.domain or "",
        "key": task.key or "",
    }
