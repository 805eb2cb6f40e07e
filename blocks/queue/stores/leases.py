"""Leases of lanes: opened, renewed, closed, and reaped when they have ended."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from organism_flows.blocks.queue.db.bisection import in_halves, logger, one_line
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.db.sqlstates import verdict
from organism_flows.blocks.queue.models.lanes import LaneRequest, ReapResult

RENEW_TIMEOUT = 3.0

LEASES_A_TASK_MAY_LOSE = 10
"""Leases after whose loss a task becomes a dead letter: it is more likely the cause than the victim."""


class Leases:
    """The leases of lanes.

    Args:
        database: The queue's database.
        lease_s: Seconds without a renewal after which a lane loses its tasks.
    """

    def __init__(self, database: Database, *, lease_s: float) -> None:
        self._database = database
        self._lease_s = lease_s

    async def register(
        self,
        lane: str,
        *,
        run: str | None = None,
        number: int | None = None,
        relay: bool = False,
        run_started_at: datetime | None = None,
    ) -> None:
        """Open a lease for a lane.

        Args:
            lane: A fresh name that no process has had before.
            run: Dispatch run that it belongs to. `Operator.request_stop` and `Operator.request_leave` address
                it by this.
            number: Number of the lane in that run.
            relay: True if the run is one of those that relieve one another.
            run_started_at: When the run began, by the database's clock. `None` means now.
        """
        await self._database.execute(
            "register",
            lane=lane,
            run=run,
            number=number,
            host=socket.gethostname(),
            pid=os.getpid(),
            lease_s=self._lease_s,
            relay=relay,
            run_started_at=run_started_at,
            timeout=RENEW_TIMEOUT,
        )

    async def renew(
        self,
        lane: str,
        *,
        settled: int = 0,
        figures: Mapping[str, float | Mapping[str, int]] | None = None,
        leaving: bool = False,
        connection: asyncpg.Connection[Any] | None = None,
    ) -> LaneRequest | None:
        """Renew the lease of a lane.

        Args:
            lane: Id of the lane.
            settled: Tasks that the lane has settled so far.
            figures: Its counters so far, as in `blocks.queue.counters`. `None` leaves them unchanged.
            leaving: True if it claims no more and waits for its calls to end.
            connection: Connection to use instead of the pool's, which belong to the event loop that opened
                them.

        Returns:
            Requests to the lane. `None` means that its lease was lost and it holds nothing any more.
        """
        session = self._database if connection is None else Session(connection)
        row = await session.fetchrow(
            "renew",
            lane=lane,
            lease_s=self._lease_s,
            settled=settled,
            figures=None if figures is None else orjson.dumps(figures).decode(),
            leaving=leaving,
            timeout=RENEW_TIMEOUT,
        )
        return None if row is None else LaneRequest(row["stop_requested"], row["leave_requested"])

    async def report(
        self, lane: str, *, settled: int, figures: Mapping[str, float | Mapping[str, int]]
    ) -> None:
        """Write the final counters of ``lane``. Its lease stays as it is."""
        await self._database.execute(
            "report",
            lane=lane,
            settled=settled,
            figures=orjson.dumps(figures).decode(),
            timeout=RENEW_TIMEOUT,
        )

    async def deregister(self, lane: str) -> None:
        """Close the lease of ``lane``. The next reap takes back the tasks that it still holds."""
        await self._database.execute("deregister", lane=lane, timeout=RENEW_TIMEOUT)

    async def reap(self, *, strays: bool = True) -> ReapResult:
        """Take back the tasks of lanes that stopped renewing.

        Args:
            strays: Also take back running tasks whose holder is not a lane. Only SQL of the user makes such.
        """
        try:
            return await self._reap("reap", strays=strays)
        except Exception as error:
            if verdict(error) != "value":
                raise
        rows = await self._database.fetch("reapable", strays=strays)

        async def write(ids: Sequence[UUID]) -> ReapResult:
            return await self._reap("reap_some", ids=ids)

        async def refused(task: UUID, why: Exception) -> None:
            logger.error("task %s cannot be taken back from a lost lane: %s", task, one_line(why))

        total = ReapResult(0, 0, 0)
        for part in await in_halves([row["id"] for row in rows], write, refused):
            total = total.plus(part)
        return total

    async def _reap(self, name: str, **which: Any) -> ReapResult:
        row = await self._database.fetchrow(name, max_leases=LEASES_A_TASK_MAY_LOSE, **which)
        runs = dict(zip(row["ids"], row["claims"], strict=True))
        return ReapResult(row["lanes"], row["retried"], row["failed"], runs)
