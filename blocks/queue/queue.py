"""The task queue: every read and write of the tasks table, without Prefect or Ray."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Self, cast
from uuid import UUID

import asyncpg
import orjson

from organism_flows.blocks.queue.db.bisection import in_halves, logger, one_line, storable
from organism_flows.blocks.queue.db.connection import CONNECT_ERRORS, open_pool, unavailable
from organism_flows.blocks.queue.db.listener import Listener
from organism_flows.blocks.queue.db.schema import check_schema
from organism_flows.blocks.queue.db.sqlstates import verdict
from organism_flows.blocks.queue.db.statements import statement
from organism_flows.blocks.queue.lane_models import LaneRequest, ReapResult
from organism_flows.blocks.queue.models import Settled, Status
from organism_flows.blocks.queue.stores.claim_lines import ClaimLines
from organism_flows.blocks.queue.stores.maintenance import Upkeep
from organism_flows.blocks.queue.stores.reads import DEFAULT_MAX_ATTEMPTS
from organism_flows.blocks.queue.wire import Batch, Outcomes, positions_of

# Timeouts in seconds: a statement that takes longer is blocked.
SETTLE_TIMEOUT = 10.0
RENEW_TIMEOUT = 3.0
REAP_TIMEOUT = 10.0
READ_TIMEOUT = 10.0

LEASES_A_TASK_MAY_LOSE = 10
"""Leases after whose loss a task becomes a dead letter: it is more likely the cause than the victim."""


class Queue(Upkeep):
    """The tasks of one database. Use it as an async context manager.

    Entering raises `QueueUnavailable` or `SchemaMismatch`. A method whose connection breaks raises asyncpg's
    own error, one of `blocks.queue.db.connection.TRANSIENT_ERRORS`, and may be called again.

    Args:
        dsn: Postgres connection URL.
        lease_s: Seconds without a renewal after which a lane loses its tasks.
        backoff_base_s: Delay before the second attempt; doubles with each further one, with jitter.
        backoff_cap_s: Longest delay between attempts.
        connections: Most connections at once.
        direct_dsn: Connection URL past a pooler, for LISTEN. `None`: ``dsn`` is direct, or lanes poll.
    """

    def __init__(
        self,
        dsn: str,
        *,
        direct_dsn: str | None = None,
        lease_s: float = 15.0,
        backoff_base_s: float = 1.0,
        backoff_cap_s: float = 300.0,
        connections: int = 4,
        application_name: str = "organism",
    ) -> None:
        self.dsn = dsn
        self.direct_dsn = direct_dsn or dsn
        self.lease_s = lease_s
        self.backoff_base_s = backoff_base_s
        self.backoff_cap_s = backoff_cap_s
        self._connections = connections
        self._application_name = application_name
        super().__init__()

    async def __aenter__(self) -> Self:
        try:
            self._pool = await open_pool(
                self.dsn, connections=self._connections, application_name=self._application_name
            )
            await check_schema(self.pool)
        except CONNECT_ERRORS as error:
            await self.close()
            raise unavailable(self.dsn, error) from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. One that does not answer is cut off after five seconds."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), 5)
            except TimeoutError:
                pool.terminate()

    # Operations of one lane

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
            run: Dispatch run that it belongs to. `request_stop` and `request_leave` address it by this.
            number: Number of the lane in that run.
            relay: True if the run is one of those that relieve one another.
            run_started_at: When the run began, by the database's clock. `None` means now.
        """
        await self.pool.execute(
            statement("register"),
            lane,
            run,
            number,
            socket.gethostname(),
            os.getpid(),
            self.lease_s,
            relay,
            run_started_at,
            timeout=RENEW_TIMEOUT,
        )

    async def renew(
        self,
        lane: str,
        *,
        settled: int = 0,
        figures: Mapping[str, float] | None = None,
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
        row = await (connection or self.pool).fetchrow(
            statement("renew"),
            lane,
            self.lease_s,
            settled,
            None if figures is None else orjson.dumps(figures).decode(),
            leaving,
            timeout=RENEW_TIMEOUT,
        )
        return None if row is None else LaneRequest(row["stop_requested"], row["leave_requested"])

    async def begun(self, batch: Batch) -> None:
        """Record that handlers have begun with the tasks of ``batch``. Stale claims change nothing."""

        async def write(rows: Sequence[int]) -> None:
            ids, claims = [batch.ids[row] for row in rows], [batch.claims[row] for row in rows]
            await self.pool.execute(statement("begun"), ids, claims, timeout=SETTLE_TIMEOUT)

        async def refused(row: int, why: Exception) -> None:
            logger.error("task %s: its beginning cannot be noted: %s", batch.ids[row], one_line(why))

        await in_halves(range(len(batch)), write, refused)

    async def report(self, lane: str, *, settled: int, figures: Mapping[str, float]) -> None:
        """Write the final counters of ``lane``. Its lease stays as it is."""
        said = orjson.dumps(figures).decode()
        await self.pool.execute(statement("report"), lane, settled, said, timeout=RENEW_TIMEOUT)

    async def deregister(self, lane: str) -> None:
        """Close the lease of ``lane``. The next reap takes back the tasks that it still holds."""
        await self.pool.execute(statement("deregister"), lane, timeout=RENEW_TIMEOUT)

    async def request_stop(self, run: str) -> int:
        """Ask every lane of a dispatch run to finish its calls and end; return how many were asked."""
        return cast("int", await self.pool.fetchval(statement("request_stop"), run, timeout=RENEW_TIMEOUT))

    async def request_leave(self, run: str) -> int:
        """Ask every lane of a dispatch run to claim no more, and to end when its calls have ended.

        Returns:
            How many were asked.
        """
        return cast("int", await self.pool.fetchval(statement("request_leave"), run, timeout=RENEW_TIMEOUT))

    # Operations on claims

    def claim_lines(self, lane: str, *, clock: Callable[[], float] = time.monotonic) -> ClaimLines:
        """Return the lines of waiting tasks, for a lane that claims repeatedly.

        Args:
            lane: Id of the lane.
            clock: Returns seconds that only grow.
        """
        return ClaimLines(self.pool, lane, clock=clock)

    async def claim(self, lane: str, limit: int) -> Batch:
        """Claim up to ``limit`` due tasks, by priority, then due time. A lane without a lease gets none.

        Reads all lines each time. A lane that claims repeatedly keeps its own `ClaimLines`.
        """
        lines = self.claim_lines(lane)
        batch = await lines.claim(limit, lambda _: limit)
        while len(batch) < limit and len(more := await lines.claim(limit - len(batch), lambda _: limit)):
            batch.extend(more)
        return batch

    async def settle(self, lane: str, batch: Batch, outcomes: Outcomes) -> Settled:
        """Write outcomes of tasks of ``batch``, each only if its claim is still the newest.

        If Postgres cannot store an outcome, its own task fails for good. The others are settled as they are.
        """
        completed = positions_of(outcomes.causes, "completed")
        if len(completed) == len(outcomes):
            statuses = await self._settle(lane, batch, outcomes)
        else:
            others = [row for row, cause in enumerate(outcomes.causes) if cause != "completed"]
            statuses = await self._settle(lane, batch, outcomes.take(completed))
            statuses |= await self._settle(lane, batch, outcomes.take(others))
        reported = [batch.ids[p] for p in outcomes.positions]
        return Settled(statuses, [task_id for task_id in reported if task_id not in statuses])

    async def _settle(self, lane: str, batch: Batch, outcomes: Outcomes) -> dict[str, Status]:
        """Settle outcomes that are all completed, or none of them."""
        if not len(outcomes):
            return {}

        async def write(rows: Sequence[int]) -> dict[str, Status]:
            return await self._write_outcomes(lane, batch, outcomes.take(rows))

        async def refused(row: int, error: Exception) -> dict[str, Status]:
            told = outcomes.take([row])
            try:
                return await self._write_outcomes(lane, batch, _unstorable(told, error))
            except Exception as again:
                if verdict(again) != "value":
                    raise
                # The outcome is not the cause: the row itself cannot be written.
                logger.error("task %s cannot be settled: %s", batch.ids[told.positions[0]], one_line(again))
                return {}

        statuses: dict[str, Status] = {}
        for part in await in_halves(range(len(outcomes)), write, refused):
            statuses |= part
        return statuses

    async def _write_outcomes(self, lane: str, batch: Batch, outcomes: Outcomes) -> dict[str, Status]:
        ids = [batch.ids[p] for p in outcomes.positions]
        claims = [batch.claims[p] for p in outcomes.positions]
        where = (outcomes.paths, outcomes.organ_ids, outcomes.elapsed_ms)
        if outcomes.causes[0] == "completed":
            rows = await self.pool.fetch(
                statement("complete"), ids, claims, outcomes.results, *where, timeout=SETTLE_TIMEOUT
            )
            return dict.fromkeys([row[0] for row in rows], "completed")
        said = [outcomes.policies.get(organ or "", (None, None, None)) for organ in outcomes.organ_ids]
        rows = await self.pool.fetch(
            statement("settle"),
            ids,
            claims,
            outcomes.causes,
            outcomes.errors,
            *where,
            *([policy[n] for policy in said] for n in range(3)),
            DEFAULT_MAX_ATTEMPTS,
            self.backoff_base_s,
            self.backoff_cap_s,
            lane,
            timeout=SETTLE_TIMEOUT,
        )
        return {row["id"]: row["status"] for row in rows}

    async def release(
        self, lane: str, batch: Batch, *, cause: str | None, error: str, suspicion: int = 0
    ) -> dict[str, Status]:
        """Hand claimed tasks back, due at once, without charging the attempt.

        Args:
            lane: Id of the lane.
            batch: The tasks.
            cause: For the history: ``interrupted``, ``replica_lost``, ``unavailable``. `None` adds no
                history: no handler had begun.
            error: One readable line for the history.
            suspicion: 1 if a replica died with them.

        Returns:
            New status by id of the tasks handed back: ``failed`` if a task was interrupted as often as its
            type may be. The others were stale.
        """

        async def write(rows: Sequence[int]) -> dict[str, Status]:
            found = await self.pool.fetch(
                statement("release"),
                [batch.ids[row] for row in rows],
                [batch.claims[row] for row in rows],
                cause,
                storable(error),
                suspicion,
                lane,
                timeout=SETTLE_TIMEOUT,
            )
            return {row["id"]: row["status"] for row in found}

        async def refused(row: int, why: Exception) -> None:
            logger.error("task %s cannot be handed back: %s", batch.ids[row], one_line(why))

        released: dict[str, Status] = {}
        for part in await in_halves(range(len(batch)), write, refused):
            released |= part
        return released

    async def abandon(self, lane: str, *, holding: Sequence[int]) -> list[str]:
        """Hand back the tasks that ``lane`` holds in the table beyond the claims in ``holding``.

        If the answer to a claim was lost with its connection, its tasks would otherwise wait for the lane to
        end. Call it only while the lane has no claim in progress.
        """
        try:
            rows = await self.pool.fetch(statement("abandon"), lane, holding, timeout=SETTLE_TIMEOUT)
        except Exception as error:
            if verdict(error) != "value":
                raise
            # The reap after the end of the lane takes back what it can.
            logger.error("lane %s cannot hand back what it does not know of: %s", lane, one_line(error))
            return []
        return [row["id"] for row in rows]

    async def cancel_requests(self, lane: str) -> dict[int, str]:
        """Return the tasks that ``lane`` holds and that are to be cancelled, their ids by claim."""
        rows = await self.pool.fetch(statement("cancel_requests"), lane, timeout=READ_TIMEOUT)
        return {row["claim"]: row["id"] for row in rows}

    async def reap(self, *, strays: bool = True) -> ReapResult:
        """Take back the tasks of lanes that stopped renewing.

        Args:
            strays: Also take back running tasks whose holder is not a lane. Only SQL of the user makes such.
        """
        try:
            return await self._reap("reap", strays)
        except Exception as error:
            if verdict(error) != "value":
                raise
        rows = await self.pool.fetch(statement("reapable"), strays, timeout=REAP_TIMEOUT)

        async def write(ids: Sequence[UUID]) -> ReapResult:
            return await self._reap("reap_some", ids)

        async def refused(task: UUID, why: Exception) -> None:
            logger.error("task %s cannot be taken back from a lost lane: %s", task, one_line(why))

        total = ReapResult(0, 0, 0)
        for part in await in_halves([row["id"] for row in rows], write, refused):
            total = total.plus(part)
        return total

    async def _reap(self, name: str, which: bool | Sequence[UUID]) -> ReapResult:
        row = await self.pool.fetchrow(statement(name), LEASES_A_TASK_MAY_LOSE, which, timeout=REAP_TIMEOUT)
        assert row is not None
        runs = dict(zip(row["ids"], row["claims"], strict=True))
        return ReapResult(row["lanes"], row["retried"], row["failed"], runs)

    @asynccontextmanager
    async def wakeups(self) -> AsyncIterator[asyncio.Event]:
        """Yield an event that is set whenever a task became ready or a stop was requested; clear it yourself.

        It has a separate connection, which is made again when it breaks. Then the event is set too, because
        notifications may have been missed. It never raises: poll from time to time anyway.
        """
        async with Listener(self.direct_dsn) as listener:
            yield listener.event


def _unstorable(outcomes: Outcomes, error: Exception) -> Outcomes:
    cause = outcomes.causes[0]
    reason = storable(error)
    replacement = Outcomes()
    if cause == "completed":
        replacement.add(
            outcomes.positions[0], "rejected", error=f"the result cannot be stored in Postgres: {reason}"
        )
    else:
        replacement.add(
            outcomes.positions[0], cause, error=f"failed with an error text that cannot be stored: {reason}"
        )
    return replacement
