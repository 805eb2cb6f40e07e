"""What is known of a task that a lane holds."""

from __future__ import annotations

from datetime import datetime

from organism_flows.blocks.long_work import WAITS_LONG_S
from organism_flows.blocks.queue.explain.why import Fact, QueueSituation
from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.blocks.queue.models.rows import TaskRow
from organism_flows.blocks.queue.wording import counted, oldest, time_text

BEGUN_KNOWN_S = 3.0
"""Seconds after a claim from which it is known whether a handler has begun. A lane records a handler that has
run for about 2 s, not earlier."""


def begun_at(task: TaskRow) -> datetime | None:
    """Return when a handler began with the current claim of ``task``.

    `None` means that none has begun, or not long enough ago to be recorded.
    """
    if task.status != "running" or task.begun_at is None or task.locked_at is None:
        return None
    # A beginning before the claim belongs to an earlier claim.
    return task.begun_at if task.begun_at >= task.locked_at else None


def held(task: TaskRow, situation: QueueSituation, holder: LaneRow | None) -> Fact:
    """Return who holds a task, and how far it is."""
    if holder is None:
        lane = next((lane for lane in situation.lanes if lane.id == task.locked_by), None)
        until = lane.lease_until if lane else None
        # A lane whose lease a reap has ended has the epoch there.
        when = f" at {time_text(until)}" if until and until.timestamp() > 0 else ""
        text = f"was held by lane {task.locked_by}, whose lease ended{when}; the next reap takes it back"
        return Fact("lease_past", text, "any lane reaps: `organism dispatch`")
    place = _place(task, situation)
    asked = ""
    if task.cancel_requested:
        asked = ", and is to be cancelled: its handler has been or will be notified"
    return Fact(
        "cancelling" if task.cancel_requested else place.reason,
        f"{place.text}, attempt {task.attempts} of {task.max_attempts}, leased by lane "
        f"{holder.id} until {time_text(holder.lease_until)}{asked}",
        place.next_step,
        until=holder.lease_until,
    )


def _place(task: TaskRow, situation: QueueSituation) -> Fact:
    """Return whether a handler has begun with a task that a live lane holds."""
    begun = begun_at(task)
    held_s = (situation.now - task.locked_at).total_seconds() if task.locked_at else 0.0
    if begun is not None:
        return Fact("running", f"runs since {time_text(begun)}")
    if held_s < BEGUN_KNOWN_S:
        return Fact("claimed", f"was claimed {max(held_s, 0.0):.0f} s ago")
    text = f"was handed to a replica {held_s:.0f} s ago and waits there for a handler"
    if situation.of_type and situation.of_type.begun:
        behind = counted(
            situation.of_type.begun, "other of its type that runs", "others of its type that run"
        )
        text += f" behind {behind}, {oldest(situation.of_type.begun)}"
        text += f"since {time_text(situation.of_type.begun_since)}"
    step = "more replicas, or more `concurrency` of its organ, let it begin sooner"
    return Fact("handed_over", text, step if held_s > WAITS_LONG_S else None)
