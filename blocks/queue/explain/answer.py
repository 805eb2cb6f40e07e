"""The answer to why a task waits, who holds it, or how it ended."""

from __future__ import annotations

from typing import assert_never

from organism_flows.blocks.queue.explain.held import begun_at, held
from organism_flows.blocks.queue.explain.notes import dead_letter, notes
from organism_flows.blocks.queue.explain.order import order_notes
from organism_flows.blocks.queue.explain.waiting import forecast_text, in_line, in_the_way, line_forecast
from organism_flows.blocks.queue.explain.why import Fact, QueueSituation, Why
from organism_flows.blocks.queue.models.operations import FINISHED
from organism_flows.blocks.queue.models.rows import TaskRow
from organism_flows.blocks.queue.wording import at_time, wait_text


def explain(task: TaskRow, situation: QueueSituation) -> Why:
    """Return why ``task`` is where it is.

    Args:
        task: The task.
        situation: The rest of the queue.
    """
    pauses = [p for p in situation.pauses if p.name == (task.type if p.kind == "type" else task.domain)]
    alive = sum(lane.claiming for lane in situation.lanes)
    holder = next((lane for lane in situation.lanes if lane.id == task.locked_by and lane.live), None)
    match task.status:
        case "created":
            facts = [Fact("created", "is created and not to run yet", "`run` it")]
        case "queued" | "retry":
            facts = list(in_the_way(task, situation, pauses, alive)) or [in_line(situation, alive)]
        case "waiting":
            wait = task.waits_for
            send = f"send it: `organism tasks signal {task.id} {wait.event}`" if wait else None
            facts = [Fact("waiting", wait_text(wait), send, wait.until if wait else None)]
        case "running":
            facts = [held(task, situation, holder)]
        case "completed":
            facts = [Fact("completed", f"completed{at_time(task.finished_at)} in attempt {task.attempts}")]
        case "failed":
            facts = [Fact("dead_letter", dead_letter(task), "`retry` it once the cause is gone")]
        case "cancelled":
            facts = [
                Fact(
                    "cancelled",
                    f"was cancelled{at_time(task.finished_at)}",
                    "`retry` it to run it after all",
                )
            ]
        case _:
            assert_never(task.status)
    further = [] if task.status in FINISHED else list(notes(task, holder))
    of_order = order_notes(task, situation.order, situation.ahead or 0, situation.now)
    further += [Fact("in_line", note.text, note.next_step) for note in of_order]
    forecast = line_forecast(facts, situation)
    said = [forecast_text(forecast)] if forecast else []
    sentence = "; ".join(
        ["; and ".join(each.text for each in facts), *said, *(note.text for note in further)]
    )
    steps = [each.next_step for each in (*facts, *further) if each.next_step]
    return Why(
        id=task.id,
        type=task.type,
        status=task.status,
        reason=facts[0].reason,
        sentence=f"task {task.id} {sentence}.",
        next_step="; ".join(steps) or None,
        until=max((each.until for each in facts if each.until), default=None),
        attempts=task.attempts,
        max_attempts=task.max_attempts,
        lane=task.locked_by,
        lanes_alive=alive,
        pauses=pauses if task.status in ("queued", "retry") else [],
        ahead=situation.ahead,
        begins=forecast,
        room=next((each.room for each in facts if each.room), None),
        of_type_running=situation.of_type.held if situation.of_type else None,
        of_type_since=situation.of_type.held_since if situation.of_type else None,
        begun_at=begun_at(task),
        interrupted=task.interrupted,
        suspicion=task.suspicion,
        lane_leaving_at=holder.leaves_since if holder else None,
        cancel_requested=task.cancel_requested,
        error=task.error,
        history=task.history,
    )
