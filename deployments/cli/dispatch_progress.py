"""Progress that a terminal shows while `organism dispatch` works."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS

LIVE_INTERVAL_S = 1.0
LINES_INTERVAL_S = 10.0
COUNT_INTERVAL_S = 5.0
COUNT_SHARE = 50
"""Upper bound on the share of time spent counting the tasks left, as 1/N. A count reads the whole backlog."""
RATE_WINDOW_S = 15.0
"""Time over which the rate is measured, in seconds.

Lanes report three times in a lease, every 5 s by default.
"""
LONG_S = 30.0


@dataclass(frozen=True)
class Snapshot:
    """Progress of the queue at one moment."""

    done: int
    """Tasks completed since the start, by any lane."""
    dead_letters: int
    left: int | None
    """Unfinished tasks; `None` means they are not counted yet."""
    per_second: float
    long_running: int
    longest_s: float

    @property
    def line(self) -> str:
        """Return all of it on one line."""
        parts = [f"{self.done:,} done"]
        if self.dead_letters:
            parts.append(f"{self.dead_letters:,} dead letter{'s' if self.dead_letters != 1 else ''}")
        if self.left is not None:
            parts.append(f"{self.left:,} left")
        text = f"{', '.join(parts)} · {self.per_second:,.{0 if self.per_second >= 10 else 1}f} tasks/s"
        if self.long_running:
            runs = "runs" if self.long_running == 1 else "run"
            text += f" · {self.long_running:,} {runs} longer than {LONG_S:g} s"
            text += f", the longest {_clock(self.longest_s)}"
        return text


class QueueWatch:
    """Observer of a queue. It counts from the first `read` on.

    Args:
        queue: An open queue.
        clock: Returns seconds that never run backwards.
    """

    def __init__(self, queue: Queue, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._clock = clock
        self._first: tuple[int, int] | None = None
        self._history: deque[tuple[float, int]] = deque()
        self._counted: tuple[int, int] | None = None
        """Unfinished tasks at the last count, and the number of tasks settled by then."""
        self._count_due = 0.0

    async def read(self) -> Snapshot:
        """Return the progress of the queue, read from the database.

        Raises:
            Exception: One of `TRANSIENT_ERRORS`: Postgres does not answer. A retry may succeed.
        """
        figures = await self._queue.reader.lane_figures()
        now = self._clock()
        completed, failed = int(figures.get("completed", 0)), int(figures.get("failed", 0))
        if self._first is None:
            self._first = completed, failed
        done, dead_letters = completed - self._first[0], failed - self._first[1]
        settled = done + dead_letters
        self._history.append((now, settled))
        while len(self._history) > 2 and now - self._history[1][0] >= RATE_WINDOW_S:
            self._history.popleft()
        then, settled_then = self._history[0]
        if now >= self._count_due:
            left = await self._queue.reader.remaining()
            took = self._clock() - now
            self._count_due = now + max(COUNT_INTERVAL_S, COUNT_SHARE * took)
            self._counted = left, settled
        tasks, longest_s = await self._queue.health.long_running(LONG_S)
        return Snapshot(
            done=done,
            dead_letters=dead_letters,
            left=self._left(settled),
            per_second=(settled - settled_then) / (now - then) if now > then else 0.0,
            long_running=tasks,
            longest_s=longest_s,
        )

    def _left(self, settled: int) -> int | None:
        if self._counted is None:
            return None
        left, settled_then = self._counted
        return max(0, left - (settled - settled_then))


@asynccontextmanager
async def shown(queue: Queue) -> AsyncIterator[None]:
    """Show progress until the block ends: one live line on a terminal, and else a line every 10 s.

    Enter it before Prefect is imported. Prefect logs to what `sys.stderr` is on import, and must not write
    into the live line.
    """
    stream = sys.stderr
    if stream.isatty():
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(
            Text("starting"),
            console=Console(file=stream, highlight=False),
            redirect_stdout=False,
            transient=True,
            refresh_per_second=4,
        ) as live:

            def show(line: str) -> None:
                live.update(Text(line, no_wrap=True, overflow="ellipsis"))

            async with _following(queue, show, LIVE_INTERVAL_S):
                yield
        return

    def write(line: str) -> None:
        print(line, file=stream, flush=True)

    async with _following(queue, write, LINES_INTERVAL_S):
        yield


@asynccontextmanager
async def _following(queue: Queue, show: Callable[[str], None], interval_s: float) -> AsyncIterator[None]:
    async def follow() -> None:
        watch = QueueWatch(queue)
        with suppress(*TRANSIENT_ERRORS):
            await watch.read()
        while True:
            await asyncio.sleep(interval_s)
            with suppress(*TRANSIENT_ERRORS):
                show((await watch.read()).line)

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest:02}"
