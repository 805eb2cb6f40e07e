"""watchdog: takes back what dead lanes hold, deletes what is old, tidies up in Prefect, restarts dispatch.

Lanes reap one another; the watchdog is for when there are none, and for what they leave alone. Each step is
short and a transaction of its own, so that killed anywhere it leaves nothing half done.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from prefect import flow, runtime
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import BaseModel, Field

from blocks.access import own_headers
from blocks.errors import StackError
from blocks.long_work import ask_organism
from blocks.queue import Queue
from blocks.queue.models import Finished
from blocks.settings import load_settings
from blocks.stack import organism_url
from blocks.task_queue import TaskQueue
from flows.alerting.telling import tell_of_queue
from flows.debris import clear_debris
from flows.dispatch_restart import start_missing_dispatch
from flows.states import EXPECTED, OURS, failed, show_page

WATCHDOG_LOCK = 0x776174636864  # "watchd": one at a time in a database
DAY_S = 86_400.0
REPORTED_LATE_S = 120.0
"""So long after its flow run a task run that lives has reported its end."""
LANE_KEPT_S = 3600.0
"""For so long a row of a dead lane that no reap could delete is kept, for whoever wants to look at it."""


class WatchdogSummary(BaseModel):
    """What one run of the watchdog did."""

    exclusive: bool = True
    """False: another was at work, and this one did nothing."""
    lanes_ended: int = 0
    tasks_taken_back: int = 0
    tasks_given_up: int = 0
    """Dead letters now: as many of their lanes have died as may."""
    lanes_forgotten: int = 0
    completed_pruned: int = 0
    cancelled_pruned: int = 0
    failed_pruned: int = 0
    flow_runs_crashed: int = 0
    task_runs_crashed: int = 0
    late_runs_cancelled: int = 0
    """Late beside a later run of the same deployment."""
    notes_pruned: int = 0
    """Of redrives, in ``task_audit``, and of files that were loaded, in ``task_files``."""
    suspects: int = 0
    """Run in processes of their own, because replicas died with them."""
    interrupted: int = 0
    """Unfinished tasks that were interrupted more than twice."""
    handed_over: int = 0
    """Tasks that have waited on replicas for a handler for more than a minute."""
    lanes_leaving: int = 0
    copies: int | None = None
    """Handlers that were asked to stop and still run; None: the organism did not say."""
    notes: list[str] = []
    """What should be known of the work that runs, with its numbers."""
    dispatch_started: str | None = None
    """Name of the run of dispatch that was started because no lane claimed tasks."""
    alerts: list[str] = []
    """What it had to say of the queue, when something began to be wrong or was well again."""
    prefect_trouble: str | None = None
    """Why Prefect's part was not done, or not all of it."""
    seconds: float = 0.0

    @property
    def pruned(self) -> int:
        """Tasks deleted."""
        return self.completed_pruned + self.cancelled_pruned + self.failed_pruned


def _run_name() -> str:
    return f"watchdog · {datetime.now():%H:%M}"


@flow(name="watchdog", version=OURS, flow_run_name=_run_name, persist_result=False, retries=0)
async def watchdog(
    keep_completed_days: Annotated[
        float | None,
        Field(gt=0, le=36_500, description="Delete completed and cancelled tasks after it; empty: keep."),
    ] = None,
    keep_failed_days: Annotated[
        float | None,
        Field(gt=0, le=36_500, description="Delete dead letters after so long; empty: keep."),
    ] = None,
    keep_audit_days: Annotated[
        float | None,
        Field(gt=0, le=36_500, description="Delete notes on redrives after so long; empty: keep."),
    ] = None,
    keep_files_days: Annotated[
        float | None,
        Field(
            gt=0,
            le=36_500,
            description="Forget loaded files after so long, which can then be loaded anew; empty: never.",
        ),
    ] = None,
    prune_seconds: Annotated[
        float, Field(gt=0, le=3600, description="Longest time to delete tasks of one status in one run.")
    ] = 60.0,
    pending_minutes: Annotated[
        float,
        Field(ge=1, le=1440, description="A flow run of ours that is Pending for so long has crashed."),
    ] = 15.0,
    prefect_seconds: Annotated[
        float, Field(gt=0, le=600, description="Longest time for tidying up in Prefect.")
    ] = 30.0,
    dead_letters: Annotated[
        int | None,
        Field(ge=0, description="Alert above so many dead letters; empty: ORGANISM_ALERT_DEAD_LETTERS."),
    ] = None,
    oldest_ready_seconds: Annotated[
        float | None,
        Field(gt=0, description="Alert when a task is ready for longer; empty: ORGANISM_ALERT_OLDEST_READY."),
    ] = None,
    interrupted: Annotated[
        int | None,
        Field(
            ge=0,
            description="Alert above so many unfinished tasks that were interrupted more than twice; empty: "
            "ORGANISM_ALERT_INTERRUPTED.",
        ),
    ] = None,
    missing_seconds: Annotated[
        float,
        Field(ge=0, le=86_400, description="Alert when no lane has claimed for so long and one should."),
    ] = 120.0,
    queue: Annotated[str, Field(description="Name of the Task Queue block.")] = "default",
) -> WatchdogSummary:
    """Take back what dead lanes hold, delete what is old, mark dead runs as crashed, and restart dispatch.

    Dispatch is restarted only if its deployment has a schedule that is on and starts relays
    (``relay: true``), and no lane claims tasks.

    Args:
        keep_completed_days: Delete completed and cancelled tasks so many days after; empty: keep them.
        keep_failed_days: Delete dead letters so many days after; empty: keep them.
        keep_audit_days: Delete notes on redrives so many days after; empty: keep them.
        keep_files_days: Forget files so many days after something was loaded of them; empty: never. A file
            that is forgotten and still there is loaded once more by the next submit that finds it.
        prune_seconds: Longest time to delete tasks of one status in one run; the next goes on.
        pending_minutes: A flow run of ours that is Pending for so long has crashed.
        prefect_seconds: Longest time for tidying up in Prefect.
        dead_letters: Alert above so many dead letters; empty: the setting's.
        oldest_ready_seconds: Alert when a task is ready for longer; empty: the setting's.
        interrupted: Alert above so many unfinished tasks interrupted more than twice; empty: the setting's.
        missing_seconds: Alert when no lane has claimed for so long although dispatch is scheduled.
        queue: Name of the Task Queue block.

    Returns:
        What was done. While another watchdog is at work on the same database, nothing.

    Raises:
        ConfigurationError: The block is wrong, or its database can only be reached through a pooler.
        QueueUnavailable: Postgres cannot be reached.
    """
    logger = get_run_logger()
    began = time.monotonic()
    summary = WatchdogSummary()
    try:
        block = await TaskQueue.named(queue)
        async with (
            block.open(application_name="organism-watchdog", connections=1) as open_queue,
            open_queue.exclusive(WATCHDOG_LOCK) as alone,
        ):
            if not alone:
                line = "another watchdog is at work"
                logger.info(line)
                return Completed(message=line, data=WatchdogSummary(exclusive=False))  # type: ignore[return-value]
            await _look_after_lanes(open_queue, summary)
            told = await tell_of_queue(
                open_queue,
                queue,
                dead_letters=dead_letters,
                oldest_ready_s=oldest_ready_seconds,
                interrupted=interrupted,
                missing_s=missing_seconds,
            )
            if keep_completed_days is not None:
                older = (keep_completed_days * DAY_S, prune_seconds)
                summary.completed_pruned = await _prune(open_queue, "completed", *older)
                summary.cancelled_pruned = await _prune(open_queue, "cancelled", *older)
            if keep_failed_days is not None:
                older = (keep_failed_days * DAY_S, prune_seconds)
                summary.failed_pruned = await _prune(open_queue, "failed", *older)
            if keep_audit_days is not None:
                summary.notes_pruned += await open_queue.prune_audit(older_than_s=keep_audit_days * DAY_S)
            if keep_files_days is not None:
                summary.notes_pruned += await open_queue.forget_files(older_than_s=keep_files_days * DAY_S)
            await _note_long_work(open_queue, summary)
            lanes = await open_queue.lanes()
            live = {lane.run for lane in lanes if lane.live and lane.run}
            run: Any = runtime.flow_run.id
            now = datetime.now(UTC)
            debris = await clear_debris(
                pending_before=now - timedelta(minutes=pending_minutes),
                ended_before=now - timedelta(seconds=REPORTED_LATE_S),
                within_s=prefect_seconds,
                own_run=UUID(run) if run else None,
                live=live,
            )
            restart = await start_missing_dispatch(await open_queue.lanes(), queue)
    except EXPECTED as error:
        return failed(error)  # type: ignore[return-value]
    summary.flow_runs_crashed, summary.task_runs_crashed = debris.flow_runs, debris.task_runs
    summary.late_runs_cancelled = debris.late
    summary.alerts = told.said
    summary.dispatch_started = restart.run
    summary.prefect_trouble = debris.trouble or told.trouble or restart.trouble
    summary.seconds = round(time.monotonic() - began, 3)
    line = _line(summary)
    logger.info(line)
    if summary.prefect_trouble:
        logger.warning(summary.prefect_trouble)
    _tell(queue, summary)
    await show_page(_page(line, summary), key="watchdog-summary")
    return Completed(message=line, data=summary)  # type: ignore[return-value]


async def _look_after_lanes(queue: Queue, summary: WatchdogSummary) -> None:
    # The first ends the leases that are past, the second deletes the rows of lanes that hold nothing more.
    for _ in range(2):
        reaped = await queue.reap(strays=True)
        summary.lanes_ended += reaped.lanes
        summary.tasks_taken_back += reaped.retried
        summary.tasks_given_up += reaped.failed
    summary.lanes_forgotten = await queue.forget_lanes(dead_for_s=LANE_KEPT_S)


async def _note_long_work(queue: Queue, summary: WatchdogSummary) -> None:
    work = await queue.long_work()
    summary.suspects, summary.interrupted = work.suspects, work.interrupted
    summary.handed_over, summary.lanes_leaving = work.handed_over, len(work.leaving)
    summary.notes = work.notes
    try:
        url = organism_url(load_settings())
    except StackError:
        # Of a broken state file others complain; what the queue says is said all the same.
        url = None
    if (running := await ask_organism(url, own_headers(load_settings()))) is not None:
        summary.copies = running.copies
        summary.notes += running.notes


async def _prune(queue: Queue, status: Finished, older_than_s: float, within_s: float) -> int:
    return await queue.prune(status, older_than_s=older_than_s, within_s=within_s)


def _line(summary: WatchdogSummary) -> str:
    said = [
        f"{count} {what}"
        for count, what in (
            (summary.tasks_taken_back, "tasks taken back"),
            (summary.tasks_given_up, "tasks given up"),
            (summary.lanes_ended, "lanes ended"),
            (summary.lanes_forgotten, "lanes forgotten"),
            (summary.pruned, "tasks deleted"),
            (summary.notes_pruned, "notes deleted"),
            (summary.flow_runs_crashed, "flow runs crashed"),
            (summary.task_runs_crashed, "task runs crashed"),
            (summary.late_runs_cancelled, "late runs cancelled"),
        )
        if count
    ] + summary.alerts
    if summary.dispatch_started:
        said.append(f"no lane claimed tasks: started {summary.dispatch_started}")
    line = ", ".join(said) or ("nothing to do" if summary.notes else "all is well")
    line = "; ".join([line, *summary.notes])
    return f"{line}; Prefect's part was not finished" if summary.prefect_trouble else line


def _tell(queue: str, summary: WatchdogSummary) -> None:
    """Emit an event for each kind of thing that was done, for automations to act on."""
    resource = {"prefect.resource.id": f"organism.queue.{queue}", "prefect.resource.name": queue}
    kinds = {
        "reaped": ("lanes_ended", "tasks_taken_back", "tasks_given_up", "lanes_forgotten"),
        "pruned": ("completed_pruned", "cancelled_pruned", "failed_pruned", "notes_pruned"),
        "crashed": ("flow_runs_crashed", "task_runs_crashed", "late_runs_cancelled"),
    }
    for kind, names in kinds.items():
        counts = {name: getattr(summary, name) for name in names}
        if any(counts.values()):
            emit_event(f"organism.watchdog.{kind}", resource=resource, payload=counts)


def _page(line: str, summary: WatchdogSummary) -> str:
    counts = summary.model_dump(
        exclude={"exclusive", "alerts", "notes", "dispatch_started", "prefect_trouble", "seconds"}
    )
    lines = [f"**{line}** in {summary.seconds:g} s", "", "| | |", "|---|---|"]
    lines += [
        f"| {name.replace('_', ' ')} | {'not known' if count is None else count} |"
        for name, count in counts.items()
    ]
    lines += ["", *(f"- {said}" for said in summary.alerts)]
    if summary.dispatch_started:
        lines.append(f"- no lane claimed tasks, so a run of dispatch was started: {summary.dispatch_started}")
    lines += [f"- {note}" for note in summary.notes]
    if summary.prefect_trouble:
        lines += ["", summary.prefect_trouble]
    return "\n".join(lines)
