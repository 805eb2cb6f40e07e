"""A lane's lease: kept by heartbeat, and given up by our own clock before anybody else can take it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from blocks.errors import QueueUnavailable
from blocks.queue import Queue
from blocks.queue.connection import TRANSIENT_ERRORS

RENEWALS_A_LEASE = 3
RETRY_S = 0.2

T = TypeVar("T")


class LaneLost(QueueUnavailable):
    """The lease could not be kept: the tasks are somebody else's, and the lane must end."""


class Lease:
    """The lease of one lane.

    Args:
        queue: An open queue.
        lane: Id of the lane, fresh for every lane, so that a namesake can never pass for it.
        run: The dispatch run it belongs to.
        on_lost: Called once, when the lease is past or somebody took the tasks back.
        on_stop: Called when the lane is asked to stop.
    """

    def __init__(
        self,
        queue: Queue,
        lane: str,
        *,
        run: str | None,
        on_lost: Callable[[str], None],
        on_stop: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._lane = lane
        self._run = run
        self._on_lost = on_lost
        self._on_stop = on_stop
        self._until = 0.0
        self.lost: str | None = None
        """Why it was lost, or None."""

    @property
    def interval(self) -> float:
        """Seconds between renewals."""
        return self._queue.lease_s / RENEWALS_A_LEASE

    async def open(self) -> None:
        """Register the lane."""
        sent = time.monotonic()
        await self._queue.register(self._lane, run=self._run)
        self._until = sent + self._queue.lease_s

    async def keep(self, settled: Callable[[], int]) -> None:
        """Renew until cancelled or lost.

        Args:
            settled: Tasks the lane has settled so far, for whoever looks at the lane.
        """
        delay = self.interval
        while True:
            await asyncio.sleep(delay)
            sent = time.monotonic()
            try:
                stop = await self._queue.renew(self._lane, settled=settled())
            except TRANSIENT_ERRORS as error:
                delay = RETRY_S
                if time.monotonic() > self._until:
                    return self._lose(f"no renewal for {self._queue.lease_s:g} s: {error}")
                continue
            if stop is None:
                return self._lose("its tasks were taken back")
            # Counted from before the request: the database may have dated it at any moment since.
            self._until = sent + self._queue.lease_s
            delay = self.interval
            if stop:
                self._on_stop()

    async def write(self, write: Callable[[], Awaitable[T]]) -> T:
        """Make a write, again while Postgres is away and the lease may still be ours.

        Raises:
            LaneLost: The lease is past; whatever is written now would be refused anyway.
        """
        while True:
            if self.lost:
                raise self.error()
            try:
                return await write()
            except TRANSIENT_ERRORS as error:
                if time.monotonic() > self._until:
                    self._lose(f"a write failed until the lease was past: {error}")
                else:
                    await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """End the lease; if Postgres cannot be reached it will expire."""
        if not self.lost:
            await self._queue.deregister(self._lane)

    def error(self) -> LaneLost:
        """What a lane that lost its lease ends with."""
        return LaneLost(
            f"lane {self._lane} lost its lease: {self.lost}",
            "its tasks go to another lane; look at Postgres and at the load of this machine",
        )

    def _lose(self, why: str) -> None:
        if self.lost is None:
            self.lost = why
            self._on_lost(why)
