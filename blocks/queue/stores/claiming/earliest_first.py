"""Claims in the order of deadlines, of lines whose types ask for it.

The tasks that expire first are read from an index of their own. Then claim.sql takes each by its place in the
line, as if it were a line of one task. So the claim itself, and whoever does not ask, know nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.stores.claiming.limits import LimitedClaim
from organism_flows.blocks.queue.stores.claiming.line_shares import ClaimLine, LineId
from organism_flows.blocks.queue.wire import Batch

EARLIEST_TIMEOUT = 10.0


Place: TypeAlias = tuple[datetime, UUID]
"""When a task expires, or is due, and its id."""


class Target(NamedTuple):
    """What claim.sql is asked for: so many tasks of a line after a place."""

    line: ClaimLine
    quota: int
    after: tuple[datetime, str] | None


class EarliestFirst:
    """How far a lane has claimed along the deadlines of each line.

    A task that is added before that place is found once `begin_again` has been called.
    """

    def __init__(self) -> None:
        self._after: dict[LineId, Place] = {}
        self._asked: dict[str, tuple[LineId, Place]] = {}
        """Line and place of each task that was asked for last, by id."""

    def begin_again(self) -> None:
        """Begin again with the task of each line that expires first."""
        self._after.clear()

    async def targets(self, claim: LimitedClaim) -> list[Target]:
        """Return what to ask claim.sql for, to take what ``claim`` wants."""
        self._asked = {}
        asked = [one for one in claim.wanted if one[0].order.earliest_deadline]
        if asked:
            costly = claim.by_cost
            asked = [one for one in asked if one[0].id not in costly]
        found: dict[LineId, list[Target]] = {}
        for row in await self._read(claim.session, asked) if asked else ():
            line, _ = asked[row["line"]]
            # The place right before that of the task.
            before = (row["run_after"], str(UUID(int=max(row["id"].int - 1, 0))))
            found.setdefault(line.id, []).append(Target(line, 1, before))
            self._asked[str(row["id"])] = line.id, (row["expires_at"], row["id"])
        targets: list[Target] = []
        for line, quota in claim.wanted:
            targets += found.get(line.id) or [Target(line, quota, line.after)]
        return targets

    def take(self, ids: Sequence[str]) -> tuple[set[LineId], Sequence[int]]:
        """Record that these tasks were claimed.

        Returns:
            The lines that were claimed along their deadlines, and the positions of the tasks in that order.
        """
        order: Sequence[int] = range(len(ids))
        if not self._asked:
            return set(), order
        for task_id in ids:
            if task_id in self._asked:
                line, place = self._asked[task_id]
                self._after[line] = max(self._after.get(line, place), place)
        numbers = {task_id: number for number, task_id in enumerate(self._asked)}
        order = sorted(order, key=lambda position: numbers.get(ids[position], len(numbers)))
        return {line for line, _ in self._asked.values()}, order

    async def _read(self, session: Session, asked: Sequence[tuple[ClaimLine, int]]) -> list[Any]:
        after = [self._after.get(line.id) for line, _ in asked]
        rows = await session.fetch(
            "earliest",
            types=[line.type for line, _ in asked],
            priorities=[line.priority for line, _ in asked],
            domains=[line.domain for line, _ in asked],
            keys=[line.key for line, _ in asked],
            quotas=[quota for _, quota in asked],
            after=[place and place[0] for place in after],
            after_ids=[place and place[1] for place in after],
            timeout=EARLIEST_TIMEOUT,
        )
        return list(rows)


async def bound_by_deadlines(session: Session, batch: Batch, types: Collection[str]) -> None:
    """Add to claimed tasks of ``types`` how long it takes until they expire.

    Args:
        session: Runs the statement.
        batch: The tasks.
        types: Types whose tasks are to be stopped when they expire.
    """
    claims = {
        task_id: claim
        for task_id, claim, task_type in zip(batch.ids, batch.claims, batch.types, strict=True)
        if task_type in types
    }
    rows = await session.fetch("expiring_claimed", ids=list(claims), timeout=EARLIEST_TIMEOUT)
    batch.expires_s = {claims[row["id"]]: row["left_s"] for row in rows}
