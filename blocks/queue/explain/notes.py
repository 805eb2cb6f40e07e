"""What else is worth knowing of a task: deadline, suspicion, interruptions, failed attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from organism_flows.blocks.queue.explain.held import begun_at
from organism_flows.blocks.queue.explain.why import Fact
from organism_flows.blocks.queue.models.lanes import LaneRow
from organism_flows.blocks.queue.models.rows import TaskRow
from organism_flows.blocks.queue.wording import counted, shortened, time_text, times

INTERRUPTED_OFTEN = 3
"""Interruptions from which on the cause should be found."""


def notes(task: TaskRow, holder: LaneRow | None) -> Iterator[Fact]:
    """Yield further facts about an unfinished task. None of them keeps it waiting."""
    if task.expires_at is not None and task.status != "running":
        late = task.run_after >= task.expires_at
        text = f"it expires at {time_text(task.expires_at)}" + (", before it is due" if late else "")
        yield Fact("scheduled", text)
    if task.suspicion > 0:
        died = counted(task.suspicion, "replica has", "replicas have")
        runs = "runs" if begun_at(task) else "is to run"
        yield Fact("running", f"it {runs} in a process of its own because {died} died with it")
    if task.interrupted:
        last = next((each for each in reversed(task.history) if each.cause == "interrupted"), None)
        text = f"it was interrupted {times(task.interrupted)}"
        if last is not None:
            text += f", {'' if task.interrupted == 1 else 'the last time '}at {time_text(last.ended_at)}"
            text += f" ({shortened(last.error)})" if last.error else ""
        bound = f"bound it with `organism tasks policy {task.type} --max-interruptions N`"
        often = task.interrupted >= INTERRUPTED_OFTEN
        yield Fact("running", text, f"find out what interrupts it, or {bound}" if often else None)
    if holder is not None and (since := holder.leaves_since):
        leaving = f"lane {holder.id} is leaving since {time_text(since)}"
        yield Fact("running", f"{leaving}: it claims nothing more and waits for its tasks to end")


def dead_letter(task: TaskRow) -> str:
    """Return since when and why a task is a dead letter."""
    causes = Counter(attempt.cause for attempt in task.history)
    ends = ", ".join(f"{number} {cause.replace('_', ' ')}" for cause, number in causes.items())
    history = f"; attempts that did not complete it: {ends}" if ends else ""
    because = f" because {shortened(task.error)}" if task.error else ""
    return f"is a dead letter since {time_text(task.finished_at)}{because}{history}"
