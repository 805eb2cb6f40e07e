"""watchdog: take back tasks of dead lanes, delete old rows, clean up in Prefect, restart dispatch.

Lanes reap each other. The watchdog covers the time when no lane runs, and the work that lanes leave to it.
Each step is short and a transaction of its own: killed at any point, it leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from datetime import datetime
from typing import Annotated, TypeAlias

from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from organism_flows.blocks.errors import ConfigurationError, OrganismError
from organism_flows.blocks.settings import load_settings
from organism_flows.flows.prefect_support.states import (
    EXPECTED_ERRORS,
    ORGANISM_TAG,
    current_run,
    failed,
    show_page,
)
from organism_flows.flows.prefect_support.watchdog_relay import (
    LONGEST_S,
    Relay,
    replace_crashed,
    seconds_to_go_on,
)
from organism_flows.flows.watchdog.queue_check import (
    WatchdogOptions,
    WatchdogSummary,
    check,
    line_of,
    page_of,
)

RUN_TIMEOUT_S = 5 * 3600.0
"""Timeout of a run, in seconds. Longer than ``LONGEST_S`` and the longest check together."""
CHECK_TIMEOUT_S = 300.0
"""Time for one check, in seconds, without its time for deleting and for Prefect."""
RETENTION_STEPS = 3
"""Number of statuses that ``prune_seconds`` applies to."""
THOROUGH_INTERVAL_S = 120.0
"""Shortest time between two checks that end stale runs in Prefect and emit an event, in seconds.

The absence of events raises an alert after five minutes. Stale runs are those that are older than minutes.
"""
KeepDays: TypeAlias = Annotated[float | None, Field(gt=0, le=36_500)]
"""Age in days at which rows are deleted; `None`: they are kept."""


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
    for_seconds: Annotated[float | None, Field(ge=0, le=LONGEST_S)] = None,
    keep_completed_days: KeepDays = None,
    keep_failed_days: KeepDays = None,
    keep_audit_days: KeepDays = None,
    keep_files_days: KeepDays = None,
    prune_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0,
    pending_minutes: Annotated[float, Field(ge=1, le=1440)] = 15.0,
    prefect_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0,
    dead_letters: Annotated[int | None, Field(ge=0)] = None,
    oldest_ready_seconds: Annotated[float | None, Field(gt=0)] = None,
    interrupted: Annotated[int | None, Field(ge=0)] = None,
    missing_seconds: Annotated[float, Field(ge=0, le=86_400)] = 120.0,
    queue: str = "default",
) -> WatchdogSummary:
    """Take back tasks of dead lanes, delete old rows, mark dead runs as crashed, and restart dispatch.

    Dispatch is restarted only if no lane claims tasks and its deployment has a schedule that is on and starts
    relays (``relay: true``).

    Args:
        for_seconds: Repeat the check for this many seconds, every ``ORGANISM_WATCHDOG_INTERVAL`` seconds. The
            run ends earlier when another repeating run of the deployment takes over, or when its schedule is
            turned off. Empty: check once; a run that a schedule has started goes on until the next one has
            begun.
        keep_completed_days: Delete completed and cancelled tasks this many days after they ended; empty: keep
            them.
        keep_failed_days: Delete dead letters this many days after they ended; empty: keep them.
        keep_audit_days: Delete notes on redrives after this many days; empty: keep them.
        keep_files_days: Forget a file this many days after the last load from it; empty: never. If the file
            still exists, the next submit that finds it loads it again.
        prune_seconds: Time to delete the tasks of one status in one check, in seconds. The next check goes
            on with the rest.
        pending_minutes: Mark a flow run of ours as crashed when it has been Pending for this many minutes.
        prefect_seconds: Time to clean up in Prefect in one check, in seconds.
        dead_letters: Alert when there are more dead letters than this; empty: ORGANISM_ALERT_DEAD_LETTERS.
        oldest_ready_seconds: Alert when a task has been ready for more seconds than this; empty:
            ORGANISM_ALERT_OLDEST_READY.
        interrupted: Alert when more unfinished tasks than this were interrupted more than twice; empty:
            ORGANISM_ALERT_INTERRUPTED.
        missing_seconds: Alert when no lane has claimed for this many seconds although dispatch is scheduled.
        queue: Name of the Task Queue block.

    Returns:
        The sums of all checks. They are 0 if another watchdog works on the same database all the time.

    Raises:
        ConfigurationError: The block is wrong, or its database can be reached only through a pooler.
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
    run = current_run()
    scheduled = bool(run and run.auto_scheduled)
    going_on_s = seconds_to_go_on({"for_seconds": for_seconds}, auto_scheduled=scheduled)
    return await _Run(options, run, going_on_s).until_its_end()  # type: ignore[return-value]


class _Run:
    """One run of the watchdog: its checks and what it logs about them.

    Args:
        options: Options of each check.
        run: The flow run, as it was when it began.
        seconds: How long it repeats the check; 0: it checks once.
    """

    def __init__(self, options: WatchdogOptions, run: FlowRun | None, seconds: float) -> None:
        self.options = options
        self.run = run
        self.seconds = seconds
        self.logger = get_run_logger()
        self.began = time.monotonic()
        self.summary = WatchdogSummary(exclusive=False)
        self.error: BaseException | None = None
        """Error of the last check, if it failed."""
        self.logged_shape = ""
        self.thorough_due = self.began

    async def until_its_end(self) -> State[WatchdogSummary]:
        """Check until the time is over or another run takes over, and return the final state of the run."""
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
                found = await check(options, own_run, thorough=now >= self.thorough_due)
        except EXPECTED_ERRORS as error:
            self.error = error
        except Exception as error:
            if not self.seconds:
                raise
            # Go on: the next check may succeed, and no other run would make it.
            self.logger.debug("a check ended unforeseen", exc_info=True)
            reason = " ".join(str(error).split())[:200]
            self.error = OrganismError(
                f"a check ended unforeseen: {type(error).__name__}: {reason}", "run `organism verify`"
            )
        if self.error:
            self.summary.checks_failed += 1
            if self.seconds:
                await self._log((logging.WARNING, f"a check failed: {failed(self.error).message}"))
            return
        if not found.exclusive:
            return
        if now >= self.thorough_due:
            self.thorough_due = now + THOROUGH_INTERVAL_S
        self.summary.add(found)
        trouble = [(logging.WARNING, found.prefect_trouble)] if found.prefect_trouble else []
        await self._log((logging.INFO, line_of(found)), *trouble, always=found.did)

    async def _log(self, *lines: tuple[int, str], always: bool = False) -> None:
        """Log the lines of a check, unless they differ from those of the check before only in numbers.

        Args:
            lines: Level and text.
            always: Log them in any case.
        """
        shape = re.sub(r"\d[\d.,:]*", "0", str(lines))
        if always or shape != self.logged_shape:
            for level, line in lines:
                self.logger.log(level, line)
            if self.seconds:
                await self._show_page(lines[0][1])
        self.logged_shape = shape

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
