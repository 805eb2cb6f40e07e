"""One check of the watchdog: lanes, alerts, retention, Prefect, dispatch. Also the summary it shows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.events import emit_event
from pydantic import BaseModel

from organism_flows.blocks.errors import StackError
from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.local_stack.stack_state import organism_url
from organism_flows.blocks.long_work import ask_organism
from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.models.operations import Finished
from organism_flows.blocks.settings import load_settings
from organism_flows.flows.alerting.notify import notify_about_queue
from organism_flows.flows.prefect_support.markdown import escaped
from organism_flows.flows.prefect_support.stale_runs import StaleRuns, clean_up_stale_runs
from organism_flows.flows.watchdog.dispatch_restart import start_missing_dispatch

WATCHDOG_LOCK = 0x776174636864  # "watchd": one at a time in a database
DAY_S = 86_400.0
REPORTED_LATE_S = 120.0
"""Time after the end of a flow run within which a live task run reports its own end, in seconds."""
LANE_KEPT_S = 3600.0
"""Time for which the row of a dead lane is kept for inspection if no reap could delete it, in seconds."""
EVENTS = {
    "reaped": ("lanes_ended", "tasks_taken_back", "tasks_given_up", "tasks_expired", "lanes_forgotten"),
    "pruned": ("completed_pruned", "cancelled_pruned", "failed_pruned", "notes_pruned"),
    "crashed": ("flow_runs_crashed", "task_runs_crashed", "late_runs_cancelled"),
}
"""Names of the counts in an event, by kind of event."""
DONE = tuple(name for names in EVENTS.values() for name in names)


class WatchdogSummary(BaseModel):
    """Result of one run of the watchdog. Counts of things done are sums over all its checks."""

    exclusive: bool = True
    """False if another watchdog worked whenever this one tried to check, so that it did nothing."""
    checks: int = 0
    checks_failed: int = 0
    """Checks that could not be finished: Postgres was away, or there was an unexpected error."""
    lanes_ended: int = 0
    tasks_taken_back: int = 0
    tasks_given_up: int = 0
    """Tasks that became dead letters because too many of their lanes died."""
    tasks_expired: int = 0
    """Tasks that became dead letters because no attempt began in time; lanes count none of theirs here."""
    lanes_forgotten: int = 0
    completed_pruned: int = 0
    cancelled_pruned: int = 0
    failed_pruned: int = 0
    flow_runs_crashed: int = 0
    task_runs_crashed: int = 0
    late_runs_cancelled: int = 0
    """Late runs that were cancelled because a later run of the same deployment is late, too."""
    notes_pruned: int = 0
    """Deleted notes: on redrives in ``task_audit``, and on loaded files in ``task_files``."""
    suspects: int = 0
    """Tasks that run in processes of their own because replicas died with them."""
    interrupted: int = 0
    """Unfinished tasks that were interrupted more than twice."""
    handed_over: int = 0
    """Tasks that have waited on replicas for a handler for more than a minute."""
    lanes_leaving: int = 0
    copies: int | None = None
    """Handlers that were asked to stop and still run; `None` if the organism did not answer."""
    notes: list[str] = []
    """Facts worth knowing about the running work, with numbers, as of the last check."""
    dispatch_started: list[str] = []
    """Names of the runs of dispatch that were started because no lane claimed tasks."""
    alerts: list[str] = []
    """Alerts about the queue that were raised or cleared."""
    prefect_trouble: str | None = None
    """Why the work in Prefect was not done, or not finished."""
    seconds: float = 0.0

    @property
    def pruned(self) -> int:
        """Return the number of deleted tasks."""
        return self.completed_pruned + self.cancelled_pruned + self.failed_pruned

    @property
    def did(self) -> bool:
        """Return True if something was done or reported."""
        return any(getattr(self, name) for name in (*DONE, "alerts", "dispatch_started"))

    def add(self, check: WatchdogSummary) -> None:
        """Add the result of one more check: counts are summed, values that describe a state are replaced."""
        sums = {name: getattr(self, name) + getattr(check, name) for name in (*DONE, "alerts", "checks")}
        sums["dispatch_started"] = self.dispatch_started + check.dispatch_started
        for name in type(self).model_fields:
            if name not in ("checks_failed", "seconds"):
                setattr(self, name, sums.get(name, getattr(check, name)))


@dataclass(frozen=True)
class WatchdogOptions:
    """Options of a check: the parameters of the flow `watchdog`, which describes them."""

    keep_completed_days: float | None
    keep_failed_days: float | None
    keep_audit_days: float | None
    keep_files_days: float | None
    prune_seconds: float
    pending_minutes: float
    prefect_seconds: float
    dead_letters: int | None
    oldest_ready_seconds: float | None
    interrupted: int | None
    missing_seconds: float
    queue: str


async def check(options: WatchdogOptions, own_run: UUID | None, *, thorough: bool) -> WatchdogSummary:
    """Check once, and return what was done. Do nothing while another check works on the same database.

    Args:
        options: Options of the check.
        own_run: The flow run that checks.
        thorough: Also end stale runs in Prefect, which takes eight requests, and emit the event whose absence
            raises an alert.

    Raises:
        ConfigurationError: The block is wrong, or its database can be reached only through a pooler.
        QueueUnavailable: Postgres cannot be reached.
    """
    began = time.monotonic()
    summary = WatchdogSummary()
    block = await TaskQueue.named(options.queue)
    async with (
        block.open(application_name="organism-watchdog", connections=1) as queue,
        queue.maintenance.exclusive(WATCHDOG_LOCK) as alone,
    ):
        if not alone:
            return WatchdogSummary(exclusive=False)
        await _reap_lanes(queue, summary)
        notified = await notify_about_queue(
            queue,
            options.queue,
            dead_letters=options.dead_letters,
            oldest_ready_s=options.oldest_ready_seconds,
            interrupted=options.interrupted,
            missing_s=options.missing_seconds,
            checked=thorough,
        )
        await _delete_what_is_old(queue, options, summary)
        await _note_long_work(queue, summary)
        stale = await _end_stale_runs(queue, options, own_run) if thorough else StaleRuns()
        restart = await start_missing_dispatch(await queue.reader.lanes(), options.queue)
    summary.flow_runs_crashed, summary.task_runs_crashed = stale.flow_runs, stale.task_runs
    summary.late_runs_cancelled = stale.late
    summary.alerts = notified.reported
    summary.dispatch_started = [restart.run] if restart.run else []
    summary.prefect_trouble = stale.trouble or notified.trouble or restart.trouble
    summary.checks = 1
    summary.seconds = round(time.monotonic() - began, 3)
    _emit(options.queue, summary)
    return summary


async def _end_stale_runs(queue: Queue, options: WatchdogOptions, own_run: UUID | None) -> StaleRuns:
    now = datetime.now(UTC)
    return await clean_up_stale_runs(
        pending_before=now - timedelta(minutes=options.pending_minutes),
        ended_before=now - timedelta(seconds=REPORTED_LATE_S),
        within_s=options.prefect_seconds,
        own_run=own_run,
        live={lane.run for lane in await queue.reader.lanes() if lane.live and lane.run},
    )


async def _delete_what_is_old(queue: Queue, options: WatchdogOptions, summary: WatchdogSummary) -> None:
    if options.keep_completed_days is not None:
        older = (options.keep_completed_days * DAY_S, options.prune_seconds)
        summary.completed_pruned = await _prune(queue, "completed", *older)
        summary.cancelled_pruned = await _prune(queue, "cancelled", *older)
    if options.keep_failed_days is not None:
        older = (options.keep_failed_days * DAY_S, options.prune_seconds)
        summary.failed_pruned = await _prune(queue, "failed", *older)
    if options.keep_audit_days is not None:
        summary.notes_pruned += await queue.maintenance.prune_audit(
            older_than_s=options.keep_audit_days * DAY_S
        )
    if options.keep_files_days is not None:
        summary.notes_pruned += await queue.maintenance.forget_files(
            older_than_s=options.keep_files_days * DAY_S
        )


async def _reap_lanes(queue: Queue, summary: WatchdogSummary) -> None:
    # The first pass ends expired leases, the second deletes the rows of lanes that hold no task any more.
    for _ in range(2):
        reaped = await queue.leases.reap(strays=True)
        summary.lanes_ended += reaped.lanes
        summary.tasks_taken_back += reaped.retried
        summary.tasks_given_up += reaped.failed
    summary.tasks_expired += await queue.maintenance.expire()
    await queue.maintenance.forget_levels()
    await queue.maintenance.forget_closures()
    await queue.maintenance.forget_spending()
    summary.lanes_forgotten = await queue.maintenance.forget_lanes(dead_for_s=LANE_KEPT_S)


async def _note_long_work(queue: Queue, summary: WatchdogSummary) -> None:
    work = await queue.health.long_work()
    summary.suspects, summary.interrupted = work.suspects, work.interrupted
    summary.handed_over, summary.lanes_leaving = work.handed_over, len(work.leaving)
    summary.notes = work.notes
    settings = load_settings()
    try:
        url = organism_url(settings)
    except StackError:
        # Other commands report a broken state file. Report what the queue says anyway.
        url = None
    if (running := await ask_organism(url, own_headers(settings))) is not None:
        summary.copies = running.copies
        summary.notes += running.notes


async def _prune(queue: Queue, status: Finished, older_than_s: float, within_s: float) -> int:
    return await queue.maintenance.prune(status, older_than_s=older_than_s, within_s=within_s)


def _emit(queue: str, summary: WatchdogSummary) -> None:
    """Emit one event for each kind of thing that was done. Automations can act on it."""
    resource = {"prefect.resource.id": f"organism.queue.{queue}", "prefect.resource.name": queue}
    for kind, names in EVENTS.items():
        counts = {name: getattr(summary, name) for name in names}
        if any(counts.values()):
            emit_event(f"organism.watchdog.{kind}", resource=resource, payload=counts)


def line_of(summary: WatchdogSummary) -> str:
    """Return the summary on one line."""
    parts = [
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
        parts.append(f"no lane claimed tasks: started {', '.join(summary.dispatch_started)}")
    line = ", ".join(parts) or ("nothing to do" if summary.notes else "all is well")
    line = "; ".join([line, *summary.notes])
    if summary.checks_failed:
        line += f"; {summary.checks_failed} checks failed"
    return f"{line}; Prefect's part was not finished" if summary.prefect_trouble else line


def page_of(line: str, summary: WatchdogSummary) -> str:
    """Return the page of a run in markdown."""
    counts = summary.model_dump(
        exclude={"exclusive", "alerts", "notes", "dispatch_started", "prefect_trouble", "seconds"}
    )
    lines = [f"**{escaped(line, 1000)}** in {summary.seconds:g} s", "", "| | |", "|---|---|"]
    lines += [
        f"| {name.replace('_', ' ')} | {'not known' if count is None else count} |"
        for name, count in counts.items()
    ]
    lines += ["", *(f"- {escaped(alert, 1000)}" for alert in summary.alerts)]
    if summary.dispatch_started:
        names = ", ".join(summary.dispatch_started)
        lines.append(f"- no lane claimed tasks, so a run of dispatch was started: {names}")
    lines += [f"- {note}" for note in summary.notes]
    if summary.prefect_trouble:
        lines += ["", summary.prefect_trouble]
    return "\n".join(lines)
