"""What the order of its type, and its own deadline, mean for a task that waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from organism_flows.blocks.queue.models.operations import TypePolicy
from organism_flows.blocks.queue.models.rows import TaskRow
from organism_flows.blocks.queue.wording import counted


@dataclass(frozen=True, slots=True)
class TaskOrder:
    """The order of a type, in the snapshot in which one of its tasks was read."""

    policy: TypePolicy
    rate: float | None = None
    """Tasks of the type that have completed a second lately. `None` means that none has."""


class OrderNote(NamedTuple):
    """A further fact about a task that waits."""

    text: str
    next_step: str | None = None


def is_late(task: TaskRow, order: TaskOrder | None, ahead: int, now: datetime) -> bool:
    """Return True if ``task`` expires before it can begin, at the rate of its type.

    Its whole type counts as if it worked on its line alone. So it is late even if nothing else is claimed.
    """
    if order is None or not order.rate or task.expires_at is None or task.expires_at <= now:
        return False
    return ahead / order.rate > (task.expires_at - now).total_seconds()


def order_notes(task: TaskRow, order: TaskOrder | None, ahead: int, now: datetime) -> Iterator[OrderNote]:
    """Yield what is to be said of the order of a task that waits.

    Args:
        task: The task.
        order: The order of its type.
        ahead: Tasks of its line that are claimed before it.
        now: When it was read.
    """
    if order is None:
        return
    policy = order.policy
    waited_s = (now - task.run_after).total_seconds()
    if policy.aging_s and waited_s >= policy.aging_s:
        steps = int(waited_s / policy.aging_s)
        yield OrderNote(
            f"it counts as priority {task.priority + steps} because it has waited, not as {task.priority}"
        )
    if policy.earliest_deadline:
        yield OrderNote("of its line, the tasks that expire first come first")
    if policy.affinity_s and task.key:
        text = "tasks of its type run together by key, so it may wait about "
        yield OrderNote(f"{text}{policy.affinity_s:g} s for the turn of key {task.key}")
    if is_late(task, order, ahead, now) and task.expires_at is not None and order.rate:
        left_s = (task.expires_at - now).total_seconds()
        yield OrderNote(
            f"it expires before it can begin: {counted(ahead, 'task comes', 'tasks come')} before it, "
            f"{order.rate:.3g} a second of its type complete, and it has {left_s:.0f} s left",
            "add replicas or lanes, or cancel it and submit it with more time or a higher priority",
        )
