"""The lease of a lane: renewed from a thread of its own, and given up before another lane can take it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import asyncpg

from organism_flows.blocks.errors import LaneLost
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS, connect
from organism_flows.blocks.queue.db.sqlstates import verdict
from organism_flows.blocks.queue.models.lanes import LaneRequest

RENEWALS_A_LEASE = 3
RENEWAL_TIMEOUT_S = 3.0
"""Longest wait for one renewal, connecting included, in seconds. It leaves time for another attempt."""
RETRY_S = 0.2
CLOSE_S = 2.0
"""Longest time for closing a lease while connections break, in seconds.

The lease may as well expire, and the caller waits for the lane to end.
"""
TICK_S = 1.0
"""Longest time between two signs that the lane's event loop runs, in seconds."""
LOOP_STUCK_S = 60.0
"""Time without such a sign after which the lease is not renewed any more, in seconds.

A blocked loop is usually a long computation that will end: to take its tasks away would only run them twice.
But a loop that never ends (a deadlock, an endless loop) would hold its tasks for ever, behind a heartbeat
that proves nothing.
"""

T = TypeVar("T")


class Report(NamedTuple):
    """Counts that a lane reports with each renewal."""

    settled: int
    """Number of tasks that it has settled so far."""
    figures: Mapping[str, float | Mapping[str, int]]
    """Its other counts, by their names in `blocks.queue.counters`, and the sizes of its windows."""


def clock() -> float:
    """Return seconds that never run backwards and go on while the process or the machine is suspended."""
    # On Linux time.monotonic stops while the machine sleeps, and the database's clock does not.
    return time.clock_gettime(_CLOCK) if _CLOCK is not None else time.monotonic()


_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Lease:
    """The lease of one lane.

    The heartbeat's thread renews it on a connection of its own. So neither a blocked event loop nor a pool
    without a free connection lets it expire. It ends when the database says so, or when our clock says that
    another lane may have it. The event loop checks this while it runs, and every write checks it as well.

    Args:
        queue: An open queue.
        lane: Id of the lane, unique to it, so no two lanes can be confused.
        run: Id of its dispatch run.
        number: Number of the lane within its run.
        on_lost: Called once in the event loop, when the lease has expired or the tasks were taken back.
        on_stop: Called in the event loop when the lane is asked to stop, perhaps more than once.
        on_leave: Called in the same way when it is asked to leave.
        relay: The run is one of those that relieve each other.
        run_started_at: Start of its run, by the database's clock.
    """

    def __init__(
        self,
        queue: Queue,
        lane: str,
        *,
        run: str | None,
        number: int | None = None,
        on_lost: Callable[[str], None],
        on_stop: Callable[[], None],
        on_leave: Callable[[], None],
        relay: bool = False,
        run_started_at: datetime | None = None,
    ) -> None:
        self._queue = queue
        self._lane = lane
        self._run = run
        self._number = number
        self._on_lost = on_lost
        self._on_stop = on_stop
        self._on_leave = on_leave
        self._relay = relay
        self._run_started_at = run_started_at
        self.leaving = False
        """Sent with each renewal: the lane claims no more tasks."""
        self.lost: str | None = None
        """Why the lease was lost; `None` while it is not."""
        # Written by one thread and read by the other; each is a single assignment.
        self._until = 0.0
        self._ticked = 0.0
        self._taken_back = False
        self._asked = LaneRequest(stop=False, leave=False)
        self._trouble = "this process did not run"
        self._closing = threading.Event()
        self._due = threading.Event()
        """Set to renew before the interval is over, or to end the thread."""
        self._thread: threading.Thread | None = None
        self._report: Callable[[], Report] | None = None

    @property
    def interval(self) -> float:
        """Return the seconds between two renewals."""
        return self._queue.lease_s / RENEWALS_A_LEASE

    async def open(self) -> None:
        """Register the lane."""
        sent = clock()
        await self._queue.leases.register(
            self._lane,
            run=self._run,
            number=self._number,
            relay=self._relay,
            run_started_at=self._run_started_at,
        )
        # Count from before the request, as at every renewal: the database may have dated the lease at any
        # moment since then.
        self._until = sent + self._queue.lease_s

    async def keep(self, report: Callable[[], Report]) -> None:
        """Keep the lease until this is cancelled or the lease is lost.

        Args:
            report: Returns the counts to report with a renewal. Called from the heartbeat's thread.
        """
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed by now
                loop.call_soon_threadsafe(changed.set)

        self._report = report
        self._ticked = clock()
        self._thread = threading.Thread(
            # A daemon, because a process that wants to end must not wait for Postgres.
            target=self._beat,
            args=(report, wake),
            name=f"{self._lane}-heartbeat",
            daemon=True,
        )
        self._thread.start()
        try:
            while not self._is_past():
                if self._asked.stop:
                    self._on_stop()
                elif self._asked.leave:
                    self._on_leave()
                # Not asyncio.wait_for: before Python 3.12 it may swallow a cancellation. The lane waits for
                # this to end, and would never leave (bpo-37658).
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(TICK_S, max(self._until - clock(), 0))):
                        await changed.wait()
                changed.clear()
                self._ticked = clock()
        finally:
            self._end_thread()

    def renew_soon(self) -> None:
        """Renew the lease now, because the lane may have been asked to stop or to leave."""
        self._due.set()

    async def write(self, write: Callable[[], Awaitable[T]]) -> T:
        """Return the result of ``write``, repeated while Postgres is away and the lease may still be ours.

        Raises:
            LaneLost: The lease is over. Postgres would refuse the write anyway.
        """
        while True:
            # Check here as well: after a freeze this may run before anything else in the process.
            if self._is_past():
                raise self.error()
            try:
                return await write()
            except Exception as error:
                if verdict(error) != "passes":
                    raise
                self._trouble = f"a write failed: {error}"
                await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """End the lease. If Postgres cannot be reached, the lease will expire."""
        self._end_thread()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        deadline = clock() + CLOSE_S
        while not self.lost:
            try:
                if self._report is not None:
                    # In a statement of its own: one statement cannot change a row and delete it.
                    await self._queue.leases.report(self._lane, **self._report()._asdict())
                await self._queue.leases.deregister(self._lane)
                return
            except TRANSIENT_ERRORS:
                if clock() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)

    def error(self) -> LaneLost:
        """Return the error with which a lane that lost its lease ends."""
        return LaneLost(
            f"lane {self._lane} lost its lease: {self.lost}",
            "its tasks go to another lane; check Postgres and the load of this machine",
        )

    def _end_thread(self) -> None:
        self._closing.set()
        self._due.set()

    def _is_past(self) -> bool:
        if self.lost is None:
            if self._taken_back:
                self._lose("its tasks were taken back")
            elif clock() > self._until:
                self._lose(f"no renewal for {self._queue.lease_s:g} s: {self._trouble}")
        return self.lost is not None

    def _lose(self, why: str) -> None:
        self.lost = why
        self._on_lost(why)

    # The heartbeat's thread

    def _beat(self, report: Callable[[], Report], wake: Callable[[], None]) -> None:
        connection: asyncpg.Connection[Any] | None = None

        async def renew() -> LaneRequest | None:
            nonlocal connection
            async with asyncio.timeout(min(RENEWAL_TIMEOUT_S, self.interval)):
                if connection is None:
                    connection = await connect(
                        self._queue.dsn,
                        # For poolers. One statement every few seconds needs no cache.
                        statement_cache_size=0,
                        server_settings={"application_name": "organism-heartbeat"},
                    )
                return await self._queue.leases.renew(
                    self._lane, **report()._asdict(), leaving=self.leaving, connection=connection
                )

        delay = self.interval
        with asyncio.Runner() as runner:
            while True:
                self._due.wait(delay)
                self._due.clear()
                if self._closing.is_set():
                    break
                sent = clock()
                if sent > self._until:
                    # Postgres would still renew a lease that was not reaped yet, but the lane may already
                    # treat it as lost.
                    break
                if sent - self._ticked > LOOP_STUCK_S:
                    self._trouble = f"the lane's event loop did not run for {LOOP_STUCK_S:g} s"
                    break
                try:
                    asked = runner.run(renew())
                except Exception as error:
                    # The lease expires unless a later renewal succeeds. Then this error is the reason.
                    self._trouble = str(error) or type(error).__name__
                    delay = RETRY_S
                    if connection is not None:
                        connection.terminate()
                        connection = None
                    continue
                delay = self.interval
                if asked is None:
                    self._taken_back = True
                    break
                self._until = sent + self._queue.lease_s
                self._trouble = "this process did not run"
                self._asked = asked
                if asked.stop or asked.leave:
                    wake()
            wake()
            if connection is not None:
                connection.terminate()
