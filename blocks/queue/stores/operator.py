"""Operations for operators: cancel, start, retry, redrive and pause tasks, set policies, ask lanes to end.

A redrive works in pages. Each is a short transaction that skips rows which another transaction has locked, so
claims and settlements never wait for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.db.bisection import in_halves, logger, one_line
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.db.sqlstates import verdict
from organism_flows.blocks.queue.models.limits import Closing, Closure, ClosureName, Limit, LimitUse
from organism_flows.blocks.queue.models.operations import (
    Cancelled,
    Pause,
    PausedKind,
    RedriveFilter,
    Redriven,
    Retried,
    Status,
    TaskFilter,
    TypePolicy,
)
from organism_flows.blocks.queue.models.rows import Redrivable, TaskSummary
from organism_flows.blocks.queue.stores.claiming.limits import limit_of, read_closures

REQUEST_TIMEOUT = 3.0
REDRIVE_TIMEOUT = 30.0
COUNT_TIMEOUT = 60.0
REDRIVE_PAGE = 2000
"""Most finished tasks that one statement reads, redriven or not."""
RACES = 5
"""Most attempts of a statement that meets a submission with the key of one of its tasks."""
STEERED_AT_ONCE = 1000
"""Most tasks that one statement cancels or queues again, so that none of them is locked for long."""


class Operator:
    """Cancels, retries, redrives and pauses tasks, sets policies, and asks lanes to end.

    Args:
        database: The queue's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cancel(self, ids: Sequence[UUID]) -> Cancelled:
        """Cancel tasks: at once if they wait, else as soon as their lane has stopped the handler.

        A running task whose handler completes before that stays completed.
        """
        rows = await self._steer("cancel", ids)
        cancelled = [UUID(row["id"]) for row in rows if row["status"] == "cancelled"]
        requested = [UUID(row["id"]) for row in rows if row["status"] == "running"]
        touched = {*cancelled, *requested}
        return Cancelled(cancelled, requested, [task_id for task_id in ids if task_id not in touched])

    async def cancellable(self, filter: TaskFilter) -> dict[Status, int]:
        """Return how many tasks `cancel_all` would cancel, by status."""
        rows = await self._database.fetch("cancellable", **filter.parameters())
        return {row["status"]: row["tasks"] for row in rows}

    async def cancel_all(self, filter: TaskFilter) -> AsyncIterator[Cancelled]:
        """Cancel every unfinished task that matches, page by page, from the newest to the oldest.

        Tasks that were submitted after the call began are not touched.

        Yields:
            The tasks of a page, which are cancelled by then.
        """
        async for ids in self._pages("to_cancel", filter):
            yield await self.cancel(ids)

    async def _pages(self, name: str, filter: TaskFilter) -> AsyncIterator[list[UUID]]:
        """Yield the ids of the tasks that a statement selects, page by page, the newest first."""
        before: UUID | None = None
        while rows := await self._database.fetch(
            name, **filter.parameters(), before=before, limit=STEERED_AT_ONCE
        ):
            ids = [row["id"] for row in rows]
            yield ids
            before = ids[-1]

    async def start(self, ids: Sequence[UUID]) -> list[UUID]:
        """Queue tasks that are only ``created``.

        Returns:
            Ids of the tasks that were queued.
        """
        rows = await self._steer("start", ids)
        return [row["id"] for row in rows]

    async def retry(self, ids: Sequence[UUID]) -> Retried:
        """Queue failed or cancelled tasks again, with fresh attempts. Their history stays."""
        rows = await self._steer("retry", ids)
        retried = [row["id"] for row in rows if row["retried"]]
        duplicates = [row["id"] for row in rows if not row["retried"]]
        touched = {*retried, *duplicates}
        return Retried(retried, [task_id for task_id in ids if task_id not in touched], duplicates)

    async def retriable(self, filter: TaskFilter) -> dict[Status, int]:
        """Return how many tasks `retry_all` would queue again, by status."""
        rows = await self._database.fetch("retriable", **filter.parameters())
        return {row["status"]: row["tasks"] for row in rows}

    async def retry_all(self, filter: TaskFilter) -> AsyncIterator[Retried]:
        """Queue every failed or cancelled task that matches again, page by page, the newest first.

        Yields:
            The tasks of a page, which are queued by then.
        """
        async for ids in self._pages("to_retry", filter):
            yield await self.retry(ids)

    async def redrivable(self, wanted: RedriveFilter, *, sample: int = 10) -> Redrivable:
        """Return how many tasks a `redrive` would queue now, and the first of them to finish.

        Args:
            wanted: Which tasks.
            sample: Most tasks to return.
        """
        values = {**_fields(wanted), "statuses": list(wanted.statuses), "until": wanted.until}
        count = await self._database.fetchval("redrivable", **values, timeout=COUNT_TIMEOUT)
        rows = await self._database.fetch("redrivable_sample", **values, limit=sample, timeout=COUNT_TIMEOUT)
        return Redrivable(cast("int", count), [TaskSummary.model_validate(dict(row)) for row in rows])

    async def redrive(
        self,
        wanted: RedriveFilter,
        *,
        actor: str,
        limit: int | None = None,
        from_start: bool = False,
        page: int = REDRIVE_PAGE,
    ) -> Redriven:
        """Queue finished tasks again, due now, with all their attempts before them.

        Their last error goes into their history, under the cause ``redriven``. Tasks that finish after the
        call began are not touched, so a task that fails again meanwhile stays a dead letter.

        Args:
            wanted: Which tasks. Only dead letters, unless it includes cancelled tasks.
            actor: Name of the caller, for the audit.
            limit: Most tasks to redrive, those that finished first. `None` means all.
            from_start: Drop their checkpoints. Else each continues from its newest one.
            page: Finished tasks to read in one statement.
        """
        began = await self._database.fetchval("now")
        until = min(wanted.until or began, began)
        done = Redriven(uuid7())
        asked = {**wanted.model_dump(mode="json"), "limit": limit, "from_start": from_start}
        details = orjson.dumps(asked).decode()
        for status in wanted.statuses:
            after: tuple[Any, UUID | None] = (None, None)
            size = page
            while limit is None or done.redriven < limit:
                left = size if limit is None else min(size, limit - done.redriven)
                place = {"status": status, "until": until, "after": after[0], "after_id": after[1]}
                try:
                    row = await self._redrive_page(
                        **_fields(wanted),
                        **place,
                        page=size,
                        limit=left,
                        from_start=from_start,
                        audit=done.audit,
                        actor=actor,
                        details=details,
                    )
                except Exception as error:
                    if verdict(error) != "value":
                        raise
                    if size == 1:
                        after = await self._pass_over(wanted.since, place, error)
                    size = page if size == 1 else size // 2
                    continue
                done.redriven += row["redriven"]
                done.kept_out += row["kept_out"]
                after = (row["finished_at"], row["id"])
                if row["scanned"] < size:
                    break
        return done

    async def _pass_over(
        self, since: datetime | None, place: dict[str, Any], why: Exception
    ) -> tuple[Any, UUID | None]:
        """Log the first task after ``place``, which cannot be redriven, and return its own place."""
        row = await self._database.fetchrow("next_finished", since=since, **place, timeout=REDRIVE_TIMEOUT)
        if row is None:
            raise why
        logger.error("task %s cannot be redriven: %s", row["id"], one_line(why))
        return row["finished_at"], row["id"]

    async def _redrive_page(self, races: int = RACES, **values: Any) -> Any:
        try:
            return await self._database.fetchrow("redrive", **values, timeout=REDRIVE_TIMEOUT)
        except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError):
            if races == 0:
                raise
        # A task with the key of one of these was submitted at the same moment. Now it is visible.
        return await self._redrive_page(races - 1, **values)

    async def _steer(self, name: str, ids: Sequence[UUID]) -> list[Any]:
        """Run a statement over tasks. One that Postgres refuses is logged and stays as it is.

        Raises:
            ConfigurationError: Postgres refuses the only task.
        """

        async def write(some: Sequence[UUID]) -> list[Any]:
            for race in range(RACES):
                try:
                    return await self._database.fetch(name, ids=some)
                except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError):
                    # A task with the key of one of these was added at the same moment. Now it is visible.
                    if race == RACES - 1:
                        raise
            raise AssertionError

        async def refused(task: UUID, why: Exception) -> None:
            if len(ids) == 1:
                raise ConfigurationError(
                    f"Postgres refuses to {name} task {task}: {one_line(why)}",
                    "correct the row, or the constraint or trigger that the error names",
                ) from None
            logger.error("task %s: Postgres refuses to %s it: %s", task, name, one_line(why))

        parts = await in_halves(list(ids), write, refused)
        return [row for part in parts for row in part]

    async def pause(self, kind: PausedKind, name: str, *, reason: str | None = None) -> None:
        """Stop claiming tasks of a type or domain. Tasks that run go on."""
        await self._database.execute("pause", kind=kind, name=name, reason=reason)

    async def resume(self, kind: PausedKind, name: str) -> bool:
        """Claim tasks of a type or domain again.

        Returns:
            True if it was paused.
        """
        found = await self._database.fetchval("resume", kind=kind, name=name)
        return cast("str | None", found) is not None

    async def pauses(self) -> list[Pause]:
        """Return everything that is paused."""
        rows = await self._database.fetch("pauses")
        return [Pause.model_validate(dict(row)) for row in rows]

    async def set_limit(self, limit: Limit) -> None:
        """Set a limit, in place of one of its name. Lanes know of it within a second or two.

        What runs already goes on.
        """
        await self._database.execute("set_limit", **_row(limit), declared=False)

    async def remove_limit(self, name: str) -> bool:
        """Remove a limit.

        Returns:
            True if there was one of that name.
        """
        return await self._database.fetchval("remove_limit", name=name) is not None

    async def limits(self) -> list[LimitUse]:
        """Return all limits, by name, with how much of each is used."""
        used = await self._database.fetch("limit_use")
        found = []
        for row in await self._database.fetch("limits"):
            limit = limit_of(row)
            keys = {use["key"]: use["tasks"] for use in used if use["name"] == limit.name}
            field = {"running": "running", "rate": "left", "cost": "spent"}[limit.kind]
            found.append(LimitUse(**dict(limit), declared=row["declared"], **{field: keys}))
        return found

    async def closures(self) -> list[Closure]:
        """Return which keys and limits are closed now, those that open last first."""
        return await read_closures(self._database)

    async def close(self, what: Closing) -> Closure:
        """Claim no task of a key or limit before a moment, in place of an earlier one. What runs goes on.

        Raises:
            ConfigurationError: There is no such limit, or it is not by key.
        """
        row = await self._database.fetchrow("close", **dict(what))
        if row is None:
            by_key = f" by key, with a key {what.key}" if what.key else ""
            raise ConfigurationError(f"there is no limit {what.name}{by_key}", "`organism limits` lists them")
        return Closure(**row)

    async def open(self, what: ClosureName) -> bool:
        """Claim tasks of what is closed again.

        Returns:
            True if it was closed.
        """
        return await self._database.fetchval("open", kind=what.kind, name=what.name, key=what.key) is not None

    async def weights(self) -> dict[str, int]:
        """Return the weights of keys, by key. All others have weight 1."""
        return {row["key"]: row["weight"] for row in await self._database.fetch("weights")}

    async def set_weight(self, key: str, weight: int) -> None:
        """Set how many tasks a key gets when others get one, where they share. 1 is usual."""
        await self._database.execute("set_weight", key=key, weight=weight)

    async def declare(
        self,
        limits: Sequence[Limit] | None,
        weights: Mapping[str, int] | None,
        policies: Sequence[TypePolicy] | None = None,
    ) -> list[str]:
        """Set what a file declares, and remove what it declared before and does no more.

        Those that were set by hand, and have other names, stay. `None` leaves all as they are.

        Returns:
            Names of the limits, ``weights``, and types of the policies, that were not so before.
        """
        changed: list[str] = []
        async with self._database.transaction() as session:
            if limits is not None:
                before = {
                    row["name"]: (limit_of(row), row["declared"]) for row in await session.fetch("limits")
                }
                for limit in limits:
                    if before.get(limit.name) != (limit, True):
                        await session.execute("set_limit", **_row(limit), declared=True)
                        changed.append(limit.name)
                gone = await session.fetch("forget_declared", names=[limit.name for limit in limits])
                changed += [row["name"] for row in gone]
            if weights is not None:
                rows = await session.fetch("weights")
                if {row["key"]: row["weight"] for row in rows if row["declared"]} != dict(weights):
                    await session.execute(
                        "declare_weights", keys=list(weights), weights=list(weights.values())
                    )
                    changed.append("weights")
            if policies is not None:
                kept = {row["type"]: dict(row) for row in await session.fetch("policies")}
                for policy in policies:
                    wanted = {**dict(policy), "declared": True}
                    if kept.get(policy.type) != wanted:
                        await session.execute("set_policy", **wanted)
                        changed.append(policy.type)
                gone = await session.fetch("forget_policies", types=[policy.type for policy in policies])
                changed += [row["type"] for row in gone]
        return changed

    async def set_policy(self, policy: TypePolicy) -> None:
        """Set how tasks of a type are retried and timed out. Takes effect at once, also for waiting tasks."""
        await self._database.execute("set_policy", **dict(policy), declared=False)

    async def policies(self) -> list[TypePolicy]:
        """Return the policies of all types that have one."""
        rows = await self._database.fetch("policies")
        # Not validated: the table may hold values that this version would not write.
        return [policy_of(row) for row in rows]

    async def request_stop(self, run: str) -> int:
        """Ask every lane of a dispatch run to finish its calls and end; return how many were asked."""
        return cast("int", await self._database.fetchval("request_stop", run=run, timeout=REQUEST_TIMEOUT))

    async def request_leave(self, run: str) -> int:
        """Ask every lane of a dispatch run to claim no more, and to end when its calls have ended.

        Returns:
            How many were asked.
        """
        return cast("int", await self._database.fetchval("request_leave", run=run, timeout=REQUEST_TIMEOUT))


def policy_of(row: Any) -> TypePolicy:
    """Return a row of ``policies.sql`` as a policy."""
    fields = dict(row)
    del fields["declared"]
    return TypePolicy.model_construct(**fields)


def _row(limit: Limit) -> dict[str, Any]:
    row = dict(limit) | {"keys": list(limit.exceptions), "amounts": list(limit.exceptions.values())}
    del row["exceptions"]
    return row


def _fields(wanted: RedriveFilter) -> dict[str, Any]:
    return {"type": wanted.type, "domain": wanted.domain, "error": wanted.error, "since": wanted.since}
