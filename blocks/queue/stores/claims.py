"""Claims of lanes on tasks: taken, settled, or handed back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from organism_flows.blocks.queue.db.bisection import in_halves, logger, one_line, storable
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.db.sqlstates import verdict
from organism_flows.blocks.queue.models.operations import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_MAX_SNOOZES,
    Settled,
    Status,
)
from organism_flows.blocks.queue.stores.claiming.claim_lines import ClaimLines
from organism_flows.blocks.queue.stores.claiming.held import Holding, unknown
from organism_flows.blocks.queue.stores.claiming.line_pages import Heard, deaf
from organism_flows.blocks.queue.wire import Batch, Outcomes, positions_of
from organism_flows.blocks.snooze import Snooze

SETTLE_TIMEOUT = 10.0
WAITING: tuple[Status, ...] = ("queued", "retry", "waiting")


class Claims:
    """The claims of lanes. Every write about a task has effect only while its claim is the newest.

    Args:
        database: The queue's database.
        backoff_base_s: Delay before the second attempt; doubles with each further one, with jitter.
        backoff_cap_s: Longest delay between attempts.
    """

    def __init__(self, database: Database, *, backoff_base_s: float, backoff_cap_s: float) -> None:
        self._database = database
        self._backoff_base_s = backoff_base_s
        self._backoff_cap_s = backoff_cap_s

    def lines(
        self,
        lane: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        heard: Heard = deaf,
        holding: Holding = unknown,
    ) -> ClaimLines:
        """Return the lines of waiting tasks, for a lane that claims repeatedly.

        Args:
            lane: Id of the lane.
            clock: Returns seconds that only grow.
            heard: Returns how often tasks have become ready, so that lines need not be read for each claim.
            holding: Returns what the lane holds, so that limits need not read it. What is claimed must be in
                it before the next claim.
        """
        return ClaimLines(self._database, lane, clock=clock, heard=heard, holding=holding)

    async def claim(self, lane: str, limit: int) -> Batch:
        """Claim up to ``limit`` due tasks, by priority, then due time. A lane without a lease gets none.

        Reads all lines each time. A lane that claims repeatedly keeps its own `ClaimLines`.
        """
        lines = self.lines(lane)
        batch = await lines.claim(limit, lambda _: limit)
        while len(batch) < limit and len(more := await lines.claim(limit - len(batch), lambda _: limit)):
            batch.extend(more)
        return batch

    async def begun(self, batch: Batch, versions: Mapping[int, str | None] | None = None) -> None:
        """Record that handlers have begun with the tasks of ``batch``. Stale claims change nothing.

        Args:
            batch: The tasks.
            versions: Versions of the handlers by claim, as far as they are known.
        """

        async def write(rows: Sequence[int]) -> None:
            await self._database.execute(
                "begun",
                ids=[batch.ids[row] for row in rows],
                claims=[batch.claims[row] for row in rows],
                versions=[(versions or {}).get(batch.claims[row]) for row in rows],
            )

        async def refused(row: int, why: Exception) -> None:
            logger.error("task %s: its beginning cannot be noted: %s", batch.ids[row], one_line(why))

        await in_halves(range(len(batch)), write, refused)

    async def settle(self, lane: str, batch: Batch, outcomes: Outcomes) -> Settled:
        """Write outcomes of tasks of ``batch``, each only if its claim is still the newest.

        If Postgres cannot store an outcome, its own task fails for good. The others are settled as they are.
        """
        put_off: dict[str, Status] = {}
        if outcomes.causes.count("completed") == len(outcomes):
            statuses = await self._settle(lane, batch, outcomes)
        else:
            completed = positions_of(outcomes.causes, "completed")
            snoozed = positions_of(outcomes.causes, "snoozed")
            others = sorted({*range(len(outcomes))}.difference(completed, snoozed))
            statuses = await self._settle(lane, batch, outcomes.take(completed))
            statuses |= await self._settle(lane, batch, outcomes.take(others))
            put_off = await self._settle(lane, batch, outcomes.take(snoozed))
            statuses |= put_off
        stale = []
        if len(statuses) < len(outcomes):
            reported = [batch.ids[p] for p in outcomes.positions]
            stale = [task_id for task_id in reported if task_id not in statuses]
        return Settled(statuses, stale, sum(status in WAITING for status in put_off.values()))

    async def _settle(self, lane: str, batch: Batch, outcomes: Outcomes) -> dict[str, Status]:
        """Settle outcomes that are all completed, all snoozed, or neither."""
        if not len(outcomes):
            return {}

        async def write(rows: Sequence[int]) -> dict[str, Status]:
            return await self._write_outcomes(lane, batch, outcomes.take(rows))

        async def refused(row: int, error: Exception) -> dict[str, Status]:
            outcome = outcomes.take([row])
            try:
                return await self._write_outcomes(lane, batch, _unstorable(outcome, error))
            except Exception as again:
                if verdict(again) != "value":
                    raise
                # The outcome is not the cause: the row itself cannot be written.
                logger.error(
                    "task %s cannot be settled: %s", batch.ids[outcome.positions[0]], one_line(again)
                )
                return {}

        statuses: dict[str, Status] = {}
        for part in await in_halves(range(len(outcomes)), write, refused):
            statuses |= part
        return statuses

    async def _write_outcomes(self, lane: str, batch: Batch, outcomes: Outcomes) -> dict[str, Status]:
        spends = outcomes.spent.count(None) < len(outcomes)
        snoozes = _snoozes(outcomes)
        if not spends and not any(snooze.event for snooze in snoozes):
            return await self._write_in(self._database, lane, batch, outcomes, snoozes)
        # Both or neither: a settlement that is repeated finds that the claim is over, and charges nothing.
        async with self._database.transaction(timeout=SETTLE_TIMEOUT) as session:
            if spends:
                await session.execute(
                    "limit_reconcile",
                    ids=[batch.ids[p] for p in outcomes.positions],
                    claims=[batch.claims[p] for p in outcomes.positions],
                    spent=outcomes.spent,
                    timeout=SETTLE_TIMEOUT,
                )
            statuses = await self._write_in(session, lane, batch, outcomes, snoozes)
            if waiting := [task_id for task_id, status in statuses.items() if status == "waiting"]:
                kept = await session.fetch("deliver_kept", ids=waiting, timeout=SETTLE_TIMEOUT)
                statuses |= {row["id"]: "queued" for row in kept}
            return statuses

    async def _write_in(
        self, session: Session, lane: str, batch: Batch, outcomes: Outcomes, snoozes: Sequence[Snooze]
    ) -> dict[str, Status]:
        columns: dict[str, Any] = {
            "ids": [batch.ids[p] for p in outcomes.positions],
            "claims": [batch.claims[p] for p in outcomes.positions],
            "paths": outcomes.paths,
            "organ_ids": outcomes.organ_ids,
            "elapsed_ms": outcomes.elapsed_ms,
            "logs": [outcomes.logs.get(batch.claims[p]) for p in outcomes.positions]
            if outcomes.logs
            else [None] * len(outcomes),
            "versions": outcomes.versions,
        }
        if outcomes.causes[0] == "completed":
            columns |= {name: _once(columns[name]) for name in ("paths", "organ_ids", "logs", "versions")}
            rows = await session.fetch("complete", results=outcomes.results, **columns)
            return dict.fromkeys(rows[0][0] if rows else (), "completed")
        columns["errors"] = outcomes.errors
        if outcomes.causes[0] == "snoozed":
            rows = await session.fetch(
                "snooze",
                **columns,
                after_s=[snooze.after_s for snooze in snoozes],
                until=[snooze.until and datetime.fromisoformat(snooze.until) for snooze in snoozes],
                closes=[snooze.closes for snooze in snoozes],
                events=[snooze.event for snooze in snoozes],
                or_fail=[snooze.or_fail for snooze in snoozes],
                default_max_snoozes=DEFAULT_MAX_SNOOZES,
                lane=lane,
            )
            return {row["id"]: row["status"] for row in rows}
        limits = [outcomes.policies.get(organ or "", (None, None, None)) for organ in outcomes.organ_ids]
        rows = await session.fetch(
            "settle",
            **columns,
            causes=outcomes.causes,
            max_attempts=[attempts for attempts, _, _ in limits],
            backoff_base_s=[base_s for _, base_s, _ in limits],
            backoff_cap_s=[cap_s for _, _, cap_s in limits],
            default_max_attempts=DEFAULT_MAX_ATTEMPTS,
            default_backoff_base_s=self._backoff_base_s,
            default_backoff_cap_s=self._backoff_cap_s,
            lane=lane,
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
            found = await self._database.fetch(
                "release",
                ids=[batch.ids[row] for row in rows],
                claims=[batch.claims[row] for row in rows],
                cause=cause,
                error=storable(error),
                suspicion=suspicion,
                lane=lane,
            )
            return {row["id"]: row["status"] for row in found}

        async def refused(row: int, why: Exception) -> None:
            logger.error("task %s cannot be handed back: %s", batch.ids[row], one_line(why))

        released: dict[str, Status] = {}
        for part in await in_halves(range(len(batch)), write, refused):
            released |= part
        return released

    async def release_unanswered(self, lane: str, *, holding: Sequence[int]) -> list[str]:
        """Hand back the tasks that ``lane`` holds in the table beyond the claims in ``holding``.

        If the answer to a claim was lost with its connection, its tasks would otherwise wait for the lane to
        end. Call it only while the lane has no claim in progress.
        """
        try:
            rows = await self._database.fetch("release_unanswered", lane=lane, known_claims=holding)
        except Exception as error:
            if verdict(error) != "value":
                raise
            # The reap after the end of the lane takes back what it can.
            logger.error("lane %s cannot hand back what it does not know of: %s", lane, one_line(error))
            return []
        return [row["id"] for row in rows]

    async def cancel_requests(self, lane: str) -> dict[int, str]:
        """Return the tasks that ``lane`` holds and that are to be cancelled, their ids by claim."""
        rows = await self._database.fetch("cancel_requests", lane=lane)
        return {row["claim"]: row["id"] for row in rows}


def _once(column: list[Any]) -> list[Any]:
    """Return a column of equal values as one value. Each value that is sent costs both sides."""
    return column[:1] if column.count(column[0]) == len(column) else column


def _snoozes(outcomes: Outcomes) -> list[Snooze]:
    """Return what the handlers of these tasks have asked for; empty if they have not put them off."""
    if outcomes.causes[0] != "snoozed":
        return []
    return [Snooze.from_json(text) for text in outcomes.results]


def _unstorable(outcomes: Outcomes, error: Exception) -> Outcomes:
    cause = outcomes.causes[0]
    reason = storable(error)
    replacement = Outcomes()
    if cause == "completed":
        replacement.add(
            outcomes.positions[0], "rejected", error=f"the result cannot be stored in Postgres: {reason}"
        )
    else:
        # What a snooze asks for may be what Postgres refuses: its attempt then counts as a failed one.
        replacement.add(
            outcomes.positions[0],
            "failed" if cause == "snoozed" else cause,
            error=f"failed with an error text that cannot be stored: {reason}",
        )
    return replacement
