"""watchdog: takes back what dead lanes hold, deletes what is old, tidies up in Prefect, restarts dispatch.

Lanes reap one another; the watchdog is for when there are none, and for what they leave alone. Each step is
short and a transaction of its own, so that killed anywhere it leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from datetime import datetime
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from organism_flows.blocks.errors import ConfigurationError, OrganismError
from organism_flows.blocks.settings import load_settings
from organism_flows.flows.prefect_support.states import EXPECTED_ERRORS, ORGANISM_TAG, failed, show_page
from organism_flows.flows.prefect_support.watchdog_relay import (
    LONGEST_S,
    Relay,
    replace_crashed,
    seconds_to_go_on,
)
from organism_flows.flows.supervision.watchdog_check import (
    WatchdogOptions,
    WatchdogSummary,
    check,
    line_of,
    page_of,
)

RUN_TIMEOUT_S = 5 * 3600.0
"""More than a run may ask for, with the longest check at its end."""
CHECK_TIMEOUT_S = 300.0
"""For a check, beside the time it is given for deleting and for Prefect."""
RETENTION_STEPS = 3
"""Statuses that ``prune_seconds`` holds for."""
EVENT_INTERVAL_S = 120.0
"""Between two events that say that the queue was checked. Their absence is an alert after five minutes."""


def _run_name() -> str:
    return f"watchdog · {datetime.now():%H:%M}"


@flow(
    name="watchdog",
    version=ORGANISM_TAG,
    flow_run_name=_run_name,
    persist_result=False,
    retries=0,
    timeout_seconds=RUN_TIMEOUT_S,
    on_crashed=[replace_crashed],
)
async def watchdog(
    for_seconds: Annotated[
        float | None,
        Field(
            ge=0,
            le=LONGEST_S,
            description="Check again and again for so long, or until another run takes over; empty: once, or "
            "where the schedule has started the run, until the next one has begun.",
        ),
    ] = None,
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
        float, Field(gt=0, le=3600, description="Longest time to delete tasks of one status in one check.")
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
        for_seconds: Check again and again for so long, every ``ORGANISM_WATCHDOG_INTERVAL`` seconds, or until
            another run of the deployment that goes on takes over, or its schedule is turned off. Empty: once;
            a run that a schedule has started goes on until the next one has begun.
        keep_completed_days: Delete completed and cancelled tasks so many days after; empty: keep them.
        keep_failed_days: Delete dead letters so many days after; empty: keep them.
        keep_audit_days: Delete notes on redrives so many days after; empty: keep them.
        keep_files_days: Forget files so many days after something was loaded of them; empty: never. A file
            that is forgotten and still there is loaded once more by the next submit that finds it.
        prune_seconds: Longest time to delete tasks of one status in one check; the next goes on.
        pending_minutes: A flow run of ours that is Pending for so long has crashed.
        prefect_seconds: Longest time for tidying up in Prefect.
        dead_letters: Alert above so many dead letters; empty: the setting's.
        oldest_ready_seconds: Alert when a task is ready for longer; empty: the setting's.
        interrupted: Alert above so many unfinished tasks interrupted more than twice; empty: the setting's.
        missing_seconds: Alert when no lane has claimed for so long although dispatch is scheduled.
        queue: Name of the Task Queue block.

    Returns:
        What was done in all checks. While another watchdog is at work on the same database, nothing.

    Raises:
        ConfigurationError: The block is wrong, or its database can only be reached through a pooler.
        QueueUnavailable: Postgres could not be reached in the last check.
    """
    options = WatchdogOptions(
        keep_completed_days=keep_completed_days,
        keep_failed_days=keep_failed_days,
        keep_audit_days=keep_audit_days,
        keep_files_days=keep_files_days,
        prune_seconds=prune_seconds,
        pending_minutes=pending_minutes,
        prefect_seconds=prefect_seconds,
        dead_letters=dead_letters,
        oldest_ready_seconds=oldest_ready_seconds,
        interrupted=interrupted,
        missing_seconds=missing_seconds,
        queue=queue,
    )
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    scheduled = bool(run and run.auto_scheduled)
    going_on_s = seconds_to_go_on({"for_seconds": for_seconds}, auto_scheduled=scheduled)
    return await _Run(options, run, going_on_s).until_its_end()  # type: ignore[return-value]


class _Run:
    """One run: its checks, and what it says of them.

    Args:
        options: What each check is to do.
        run: The flow run, as it was when it began.
        seconds: For how long it checks; 0: once.
    """

    def __init__(self, options: WatchdogOptions, run: FlowRun | None, seconds: float) -> None:
        self.options = options
        self.run = run
        self.seconds = seconds
        self.logger = get_run_logger()
        self.began = time.monotonic()
        self.summary = WatchdogSummary(exclusive=False)
        self.error: BaseException | None = None
        """Why the last check failed."""
        self.said = ""
        self.event_due = self.began

    async def until_its_end(self) -> State[WatchdogSummary]:
        """Check once, or until the time is over or another run takes over."""
        interval_s = load_settings().watchdog_interval
        relay = Relay(self.run)
        why = None
        while why is None:
            due = time.monotonic() + interval_s
            await self._check()
            if isinstance(self.error, ConfigurationError) or due - self.began > self.seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            why = await relay.reason_to_leave()
        return await self._end(why)

    async def _check(self) -> None:
        now = time.monotonic()
        options = self.options
        longest_s = CHECK_TIMEOUT_S + options.prefect_seconds + RETENTION_STEPS * options.prune_seconds
        self.error = None
        try:
            async with asyncio.timeout(longest_s):
                own_run = self.run.id if self.run else None
                found = await check(options, own_run, say_checked=now >= self.event_due)
        except EXPECTED_ERRORS as error:
            self.error = error
        except Exception as error:
            if not self.seconds:
                raise
            # The next check may well succeed, and no other run would make it.
            self.logger.debug("a check ended unforeseen", exc_info=True)
            reason = " ".join(str(error).split())[:200]
            self.error = OrganismError(
                f"a check ended unforeseen: {type(error).__name__}: {reason}", "run `organism verify`"
            )
        if self.error:
            self.summary.checks_failed += 1
            if self.seconds:
                await self._say((logging.WARNING, f"a check failed: {failed(self.error).message}"))
            return
        if not found.exclusive:
            return
        if now >= self.event_due:
            self.event_due = now + EVENT_INTERVAL_S
        self.summary.add(found)
        trouble = [(logging.WARNING, found.prefect_trouble)] if found.prefect_trouble else []
        await self._say((logging.INFO, line_of(found)), *trouble, always=found.did)

    async def _say(self, *lines: tuple[int, str], always: bool = False) -> None:
        """Log what a check found, unless the one before found the same but for figures."""
        shape = re.sub(r"\d[\d.,:]*", "0", str(lines))
        if always or shape != self.said:
            for level, line in lines:
                self.logger.log(level, line)
            if self.seconds:
                await self._show_page(lines[0][1])
        self.said = shape

    async def _end(self, why: str | None) -> State[WatchdogSummary]:
        self.summary.seconds = round(time.monotonic() - self.began, 3)
        checks = self.summary.checks
        line = line_of(self.summary) if checks else "another watchdog is at work"
        if checks + self.summary.checks_failed > 1:
            line = f"{line}; {checks} checks" + (f", {why}" if why else "")
        if self.seconds or not checks:
            self.logger.info(line)
        if self.error:
            return failed(self.error)
        if checks:
            await self._show_page(line)
        return Completed(message=line, data=self.summary)

    async def _show_page(self, line: str) -> None:
        self.summary.seconds = round(time.monotonic() - self.began, 3)
        await show_page(page_of(line, self.summary), key="watchdog-summary")
