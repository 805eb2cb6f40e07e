"""The outcomes of one call, streamed in chunks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from contextvars import Context

from organism_flows.blocks.queue.wire import Batch, OutcomeRow, Outcomes
from organism_flows.blocks.task_report import TaskReport
from organism_flows.serve_apps.organism.handler_api.results import HandlerResult

CHUNK = 1000
"""Most outcomes in one chunk. 500 no-ops in one chunk instead of three took a quarter less CPU on the
replica and 40 % less in the caller."""
COALESCE_S = 0.025
"""Longest time the first outcome of a chunk waits for others, in seconds: a yield costs as much as some
hundred tasks."""
REPORT_S = 0.05
"""Longest time a report of a running task waits for others, in seconds. Each costs the task one write."""
AWAITED_S = 0.02
"""Shortest time between two messages with reports that handlers wait for, in seconds. A message costs this
process and the lane about 1 ms each. One that comes after a longer pause leaves at once."""
SIGN_OF_LIFE_S = 2.0
"""Longest silence, in seconds. Lanes take 30 s of silence for a dead replica."""


class BatchCall:
    """One batch on the replica, and its outcomes.

    Args:
        batch: The tasks.
        context: The context that handlers run in copies of.
    """

    def __init__(self, batch: Batch, context: Context) -> None:
        self.batch = batch
        self.context = context
        self.cancelled: set[int] = set()
        """Claims of the tasks that were asked to stop."""
        self.begun: dict[int, str | None] = {}
        """Versions of the handlers that are about to begin, by the position of the task: reported at once."""
        self.left = len(batch)
        self._rows: list[OutcomeRow] = []
        """Outcomes of the next chunk. Making columns of rows costs less than appending to nine columns."""
        self._logs: dict[int, str] = {}
        self._loop = asyncio.get_running_loop()
        self._reports: dict[int, TaskReport] = {}
        """What running tasks have reported since the last chunk, by position."""
        self._reports_lock = threading.Lock()
        self._awaited = False
        """True if one of them is waited for."""
        self._reported_at = 0.0
        """When the last message with reports left, by the loop's clock."""
        self._some = asyncio.Event()
        self._full = asyncio.Event()

    def report(
        self,
        position: int,
        result: HandlerResult,
        path: str,
        organ_id: str | None,
        elapsed_ms: float,
        version: str | None = None,
    ) -> None:
        """Add the outcome of one task, and the version of its handler. Report each position only once."""
        cause, text, error, spent, log = result
        self._rows.append((position, cause, text, error, path, organ_id, elapsed_ms, spent, version))
        if log is not None:
            self._logs[self.batch.claims[position]] = log
        self.left -= 1
        if len(self._rows) == 1:
            self._some.set()
        if not self.left or len(self._rows) >= CHUNK:
            self._full.set()

    def begin(self, position: int, version: str | None) -> None:
        """Report at once that a handler of this version is about to begin with a task."""
        self.begun[position] = version
        self.wake()

    def wake(self) -> None:
        """Send a message now, even one without outcomes."""
        self._some.set()
        self._full.set()

    def report_running(self, report: TaskReport) -> None:
        """Add what a running task reports. It is safe in any thread."""
        with self._reports_lock:
            news = not self._reports or (report.awaited and not self._awaited)
            self._awaited |= report.awaited
            self._reports[report.position] = report.after(self._reports.get(report.position))
        if news:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the replica ends
                self._loop.call_soon_threadsafe(self._announce, report.awaited)

    def _announce(self, awaited: bool) -> None:
        self._some.set()
        if awaited:
            self._loop.call_at(max(self._reported_at + AWAITED_S, self._loop.time()), self._full.set)

    async def chunks(self) -> AsyncGenerator[Outcomes, None]:
        """Yield chunks of outcomes until all are out. An empty one only shows that the replica lives."""
        while self.left or self._rows:
            if not self._rows and not await happens(self._some, SIGN_OF_LIFE_S):
                yield Outcomes()
                continue
            await happens(self._full, COALESCE_S if self._rows else REPORT_S)
            with self._reports_lock:
                reports, self._reports, self._awaited = self._reports, {}, False
            if reports:
                self._reported_at = self._loop.time()
            rows, self._rows = self._rows, []
            logs, self._logs = self._logs, {}
            self._some.clear()
            self._full.clear()
            for start in range(0, len(rows) or 1, CHUNK):
                part = Outcomes.of(rows[start : start + CHUNK])
                part.logs = logs
                part.reports = [] if start else list(reports.values())
                yield part
                # While a generator does not let the loop run, what it has yielded does not leave.
                await asyncio.sleep(0)


async def happens(event: asyncio.Event, timeout: float) -> bool:
    """Wait for ``event``, at most ``timeout`` seconds, and return True if it is set."""
    if not event.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await event.wait()
    return event.is_set()


def result_at(outcomes: Outcomes, row: int) -> HandlerResult:
    """Return how the task in one row of ``outcomes`` ended."""
    return HandlerResult(
        outcomes.causes[row], outcomes.results[row], outcomes.errors[row], outcomes.spent[row]
    )
