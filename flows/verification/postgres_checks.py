"""Checks of Postgres: reachable, migrated, writable, in time, and free of what slows a queue down."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import asyncpg

from organism_flows.blocks.finding import Finding, degraded, failed, ok
from organism_flows.blocks.queue import DatabaseState, Queue
from organism_flows.blocks.queue.db.migrate import pending
from organism_flows.blocks.queue.db.sqlstates import TRANSIENT_ERRORS

SKEW_S = 2.0
OLD_SNAPSHOT_S = 300.0
DEAD_SHARE = 0.5
DEAD_ROWS = 1_000_000
FEW_CONNECTIONS = 10
ERRORS: tuple[type[BaseException], ...] = (asyncpg.PostgresError, *TRANSIENT_ERRORS)


async def check(queue: Queue) -> list[Finding]:
    """Return all findings about the database of an open queue."""
    asked = time.time()
    state = await queue.health.database()
    between = (asked + time.time()) / 2
    return [
        ok("postgres: reachable", f"{state.version}, database {state.database}"),
        await _migrated(queue),
        await _takes_tasks(queue),
        _clock(state.now, between),
        _snapshots(state),
        _dead_rows(state),
        _connections(state),
    ]


async def _migrated(queue: Queue) -> Finding:
    missing = await pending(queue.direct_dsn)
    if missing:
        return failed(
            "postgres: migrated",
            f"not yet applied: {', '.join(missing)}",
            "run `organism migrate` or bootstrap",
        )
    return ok("postgres: migrated", "every migration of this version is applied")


async def _takes_tasks(queue: Queue) -> Finding:
    try:
        await queue.health.check_writes()
    except ERRORS as error:
        return failed(
            "postgres: takes tasks",
            " ".join((str(error) or type(error).__name__).split()),
            "free disk space, end the lock, or wait for the fail-over, according to the error",
        )
    return ok("postgres: takes tasks", "a task was added and taken back")


def _clock(there: datetime, here: float) -> Finding:
    skew = there.timestamp() - here
    seen = f"the database is {abs(skew):.2f} s {'ahead of' if skew > 0 else 'behind'} this machine"
    if abs(skew) > SKEW_S:
        return degraded(
            "postgres: clock",
            seen,
            "correct the clocks; only the database's decides, but logs and schedules will not match",
        )
    return ok("postgres: clock", seen)


def _snapshots(state: DatabaseState) -> Finding:
    seconds, who = state.oldest_xact_s or 0.0, state.oldest_xact or ""
    if seconds > OLD_SNAPSHOT_S:
        return degraded(
            "postgres: oldest transaction",
            f"open for {seconds:.0f} s: {who}",
            "end it, or move it to a standby: nothing that dies meanwhile can be removed",
        )
    return ok("postgres: oldest transaction", f"{seconds:.0f} s")


def _dead_rows(state: DatabaseState) -> Finding:
    dead, live = state.dead or 0, state.live or 0
    seen = f"{dead:,} dead of {dead + live:,} rows in tasks; last vacuum {_when(state.vacuumed)}"
    if dead > DEAD_ROWS and dead > DEAD_SHARE * (dead + live):
        return degraded("postgres: dead rows", seen, "see that autovacuum runs and no snapshot is held open")
    return ok("postgres: dead rows", seen)


def _connections(state: DatabaseState) -> Finding:
    left = state.max_connections - state.connections
    seen = f"{state.connections} of {state.max_connections} in use"
    if left <= FEW_CONNECTIONS:
        return degraded(
            "postgres: connections",
            seen,
            "raise max_connections, or put PgBouncer between (docs/how-to/own-database.md)",
        )
    return ok("postgres: connections", seen)


def _when(moment: datetime | None) -> str:
    if moment is None:
        return "never"
    return f"{(datetime.now(UTC) - moment).total_seconds():.0f} s ago"
