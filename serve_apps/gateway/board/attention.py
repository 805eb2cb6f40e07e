"""What needs a person, and what to do about it: the first thing that the board shows."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from organism_flows.blocks.client.board_messages import (
    Attention,
    OrganismFigures,
    QueueFigures,
)

WAITS_LONG_S = 300.0
"""Wait of the oldest ready task from which on it is worth a line, in seconds."""
NAMES_SHOWN = 3
"""Most types that get a line of their own for one reason."""


def attention_of(queue: QueueFigures, organism: OrganismFigures) -> list[Attention]:
    """Return what needs a person, the worst first. Empty means that all is well."""
    found = [
        *_lanes(queue),
        *_organism(queue, organism),
        *_dead_letters(queue),
        *_waits(queue),
        *_pauses(queue),
        *_verification(queue),
    ]
    return sorted(found, key=lambda one: ("bad", "warn", "info").index(one.level))


def _lanes(queue: QueueFigures) -> Iterator[Attention]:
    waiting = sum(one.ready for one in queue.types)
    if waiting and not any(lane.state == "live" for lane in queue.lanes):
        yield Attention(
            level="bad",
            what=f"No lane claims tasks, and {_tasks(waiting, queue)} ready",
            next_step="Run `organism dispatch`, or `organism schedule dispatch on`",
            link="#/system",
        )
    for lane in [lane for lane in queue.lanes if lane.state == "silent"][:NAMES_SHOWN]:
        yield Attention(
            level="warn",
            what=f"Lane {lane.id} is silent for {_duration(lane.heartbeat_s)}; it held {lane.held:,} tasks",
            next_step="The next reap takes its tasks back. If none does, run `organism dispatch`",
            link="#/system",
        )


def _organism(queue: QueueFigures, organism: OrganismFigures) -> Iterator[Attention]:
    if organism.status in ("unhealthy", "degraded"):
        yield Attention(
            level="bad" if organism.status == "unhealthy" else "warn",
            what=f"The organism is {organism.status}: {organism.reason or 'it gives no reason'}",
            next_step=organism.next_step,
            link="#/system",
        )
    if organism.status not in ("healthy", "degraded") or organism.any_type:
        return
    served = {name for organ in organism.organs for name in organ.task_types}
    unserved = [one for one in queue.types if one.ready and one.name not in served]
    for one in unserved[:NAMES_SHOWN]:
        yield Attention(
            level="warn",
            what=f"No organ serves the type {one.name}: {one.ready:,} tasks wait",
            next_step="Add the type to an organ and deploy, or cancel these tasks",
            link=_tasks_link("queued", one.name),
        )


def _dead_letters(queue: QueueFigures) -> Iterator[Attention]:
    if not queue.dead_last_hour:
        return
    worst = max(queue.types, key=lambda one: one.dead_last_hour)
    more = "more than " if queue.dead_more and queue.dead_last_hour >= queue.dead else ""
    yield Attention(
        level="bad",
        what=f"{more}{queue.dead_last_hour:,} dead {'letter' if queue.dead_last_hour == 1 else 'letters'} "
        f"in the last hour, most of type {worst.name}",
        next_step="See the errors, pause the type if it goes on, then redrive",
        link=f"#/failures?type={quote(worst.name, safe='')}",
    )


def _waits(queue: QueueFigures) -> Iterator[Attention]:
    paused = {pause.name for pause in queue.pauses if pause.kind == "type"}
    slow = [
        one
        for one in queue.types
        if one.name not in paused and one.oldest_ready_s is not None and one.oldest_ready_s > WAITS_LONG_S
    ]
    slow.sort(key=lambda one: -(one.oldest_ready_s or 0))
    for one in slow[:NAMES_SHOWN]:
        yield Attention(
            level="warn",
            what=f"The oldest ready task of {one.name} has waited for {_duration(one.oldest_ready_s or 0)}",
            next_step="Open it to see what it waits for",
            link=_tasks_link("queued", one.name),
        )


def _pauses(queue: QueueFigures) -> Iterator[Attention]:
    for pause in queue.pauses[:NAMES_SHOWN]:
        loads = queue.types if pause.kind == "type" else queue.domains
        waiting = next((one.ready for one in loads if one.name == pause.name), 0)
        because = f"“{pause.reason}”. " if pause.reason else ""
        yield Attention(
            level="info",
            what=f"The {pause.kind} {pause.name} is paused{f' by {pause.by}' if pause.by else ''}; "
            f"{waiting:,} ready tasks wait",
            next_step=f"{because}Resume it when its cause is gone",
            link="#/types",
        )
    if len(queue.pauses) > NAMES_SHOWN:
        yield Attention(level="info", what=f"{len(queue.pauses) - NAMES_SHOWN:,} more pauses", link="#/types")


def _verification(queue: QueueFigures) -> Iterator[Attention]:
    last = queue.verification
    if last is not None and last.status != "ok":
        yield Attention(
            level="bad" if last.status == "failed" else "warn",
            what=f"The last verification: {last.line}",
            next_step="Run `organism verify`, which says what to do about each",
        )


def _tasks(waiting: int, queue: QueueFigures) -> str:
    more = "more than " if any(one.more for one in queue.types) else ""
    return f"{more}{waiting:,} {'task is' if waiting == 1 else 'tasks are'}"


def _tasks_link(status: str, name: str) -> str:
    return f"#/tasks?status={status}&type={quote(name, safe='')}"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} s"
