"""What of the queue decides why a task is where it is, read in one snapshot."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.explain import QueueSituation, RunningOfType
from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.blocks.queue.models.operations import Pause
from organism_flows.blocks.queue.models.rows import TaskRow
from organism_flows.blocks.queue.stores.limits import room_of


async def read_situation(session: Session, task: TaskRow, served: Collection[str] | None) -> QueueSituation:
    """Return what decides why ``task`` is where it is.

    Args:
        session: Session in whose snapshot the task was read.
        task: The task.
        served: Types that have an organ. `None` means not known.
    """
    waits = task.status in ("queued", "retry")
    limits, closures = await room_of(session, task.type, task.key or "", task.cost) if waits else ([], [])
    of_type = None
    if waits or task.status == "running":
        of_type = RunningOfType(**await session.fetchrow("of_type", type=task.type, id=task.id))
    ahead = None
    if waits:
        ahead = await session.fetchval("ahead", **_line(task), run_after=task.run_after, id=task.id)
    return QueueSituation(
        now=await session.fetchval("now"),
        pauses=[Pause(**row) for row in await session.fetch("pauses")],
        lanes=[LaneRow(**row) for row in await session.fetch("lanes")],
        ahead=ahead,
        served=served,
        of_type=of_type,
        limits=limits,
        closures=closures,
    )


def _line(task: TaskRow) -> dict[str, Any]:
    return {
        "type": task.type,
        "priority": task.priority,
        "domain": task.domain or "",
        "key": task.key or "",
    }
