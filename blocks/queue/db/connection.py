"""Connections to Postgres, with errors that say what to do."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
from asyncpg.exceptions import TargetServerAttributeNotMatched
from asyncpg.pool import PoolAcquireContext

from organism_flows.blocks.errors import ConfigurationError, QueueUnavailable
from organism_flows.blocks.queue.db.roles import PrivilegeMissing, privilege_missing
from organism_flows.blocks.queue.db.sqlstates import TRANSIENT_ERRORS as TRANSIENT_ERRORS
from organism_flows.blocks.queue.db.sqlstates import spoils_session
from organism_flows.blocks.queue.models.timestamps import read_any_moment

if TYPE_CHECKING:
    _AnyPool = asyncpg.Pool[Any]
    _AnyConnection = asyncpg.Connection[Any]
else:  # generic for type checkers only
    _AnyPool = asyncpg.Pool
    _AnyConnection = asyncpg.Connection

# While Postgres is down, this logger warns with a traceback for each failed connection. The next statement
# raises the error anyway.
logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)

CONNECT_TIMEOUT = 10.0
COMMAND_TIMEOUT = 10.0
"""Seconds for a statement that names no timeout of its own."""
RELEASE_TIMEOUT = 1.0
"""Longest wait for Postgres to confirm that it cancels a statement, in seconds. After that the connection is
dropped."""

PLANS_LAST_S = 1.0
"""Longest time for which a connection keeps a plan, in seconds. To plan takes most of the time of a statement
for one task, and so soon no table outgrows a plan by much."""
REPLAN_TIMEOUT = 3.0
"""Longest wait for Postgres to forget plans, in seconds. It needs no lock and no disk for that. The statement
that follows has a timeout of its own."""
WAIT_POLL_S = 0.5

ISOLATION = "read committed"
"""The isolation level that the statements are written for. They check a row again if it was locked when they
reached it."""

CONNECT_ERRORS: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, asyncpg.PostgresError, ValueError)
"""Errors that an attempt to connect may raise."""


def describe(dsn: str) -> str:
    """Return ``host:port/database`` of a connection URL, the part that may be shown."""
    try:
        url = urlsplit(dsn)
        if "," in url.netloc:
            return f"{url.netloc.rpartition('@')[2]}{url.path}"
        host = url.hostname or "local socket"
        port = f":{url.port}" if url.port else ""
    except ValueError:
        return "(a URL that cannot be read)"
    return f"{host}{port}{url.path or ''}"


def unavailable(dsn: str, error: BaseException) -> QueueUnavailable:
    """Return the one line for a connection that could not be made."""
    where = describe(dsn)
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return QueueUnavailable(
                f"Postgres at {where} refuses this login: {error}",
                "correct user and password in ORGANISM_DSN",
            )
        case asyncpg.InsufficientPrivilegeError():
            return QueueUnavailable(
                f"Postgres at {where} refuses this login: {error.args[0]}",
                "have an administrator GRANT CONNECT ON DATABASE … TO this login; see docs/how-to/roles.md",
            )
        case asyncpg.InvalidCatalogNameError():
            return QueueUnavailable(
                f"Postgres at {where}: {error}", "create that database or correct ORGANISM_DSN"
            )
        case asyncpg.TooManyConnectionsError():
            return QueueUnavailable(
                f"Postgres at {where} has no connection left: {error}",
                "raise max_connections or run fewer lanes",
            )
        case asyncpg.DiskFullError():
            return QueueUnavailable(
                f"the disk of Postgres at {where} is full: {error}", "free some space there, and try again"
            )
        case TargetServerAttributeNotMatched():
            return QueueUnavailable(
                f"no Postgres at {where} takes writes: each is a standby, or set to read only",
                "wait for the fail-over, or name the new primary in ORGANISM_DSN",
            )
        case TimeoutError():
            reason = f"no answer within {CONNECT_TIMEOUT:g} s"
        case _:
            reason = str(error) or type(error).__name__
    return QueueUnavailable(
        f"cannot reach Postgres at {where}: {reason}",
        "start it, or correct ORGANISM_DSN (unset: the embedded one, started by `organism up`)",
    )


def session_attributes(dsn: str) -> dict[str, Any]:
    """Return the options that choose a host that accepts writes among several.

    A single host is used as it is: reads go on while it is read only.
    """
    url = urlsplit(dsn)
    several = "," in url.netloc or re.search(r"(^|&)host=[^&]*(,|%2C)", url.query, re.IGNORECASE)
    if not several or "target_session_attrs" in url.query:
        return {}
    return {"target_session_attrs": "read-write"}


async def connect(dsn: str, **options: Any) -> asyncpg.Connection[Any]:
    """Return one connection.

    Args:
        dsn: Postgres connection URL.
        options: Further arguments of `asyncpg.connect`.

    Raises:
        QueueUnavailable: It cannot be made. The message never holds the password.
    """
    try:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT, **session_attributes(dsn), **options
        )
        return connection
    except CONNECT_ERRORS as error:
        raise unavailable(dsn, error) from None


async def wait_for_postgres(dsn: str, *, within_s: float, on_wait: Callable[[str], None]) -> None:
    """Return when Postgres accepts a connection.

    Args:
        dsn: Postgres connection URL.
        within_s: Longest wait, in seconds. A wrong login or database is reported at once.
        on_wait: Called once with the reason, if there is a wait.

    Raises:
        QueueUnavailable: Postgres did not come up in time, or refuses the connection.
    """
    deadline = time.monotonic() + within_s
    waiting = False
    while True:
        try:
            connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, **session_attributes(dsn))
        except TRANSIENT_ERRORS as error:
            trouble = unavailable(dsn, error)
            if time.monotonic() > deadline:
                raise trouble from None
            if not waiting:
                on_wait(trouble.what)
            waiting = True
            await asyncio.sleep(WAIT_POLL_S)
        except CONNECT_ERRORS as error:
            raise unavailable(dsn, error) from None
        else:
            connection.terminate()
            return


async def behind_pooler(connection: asyncpg.Connection[Any]) -> bool:
    """Return True if a pooler, such as PgBouncer, is between ``connection`` and Postgres.

    A pooler that shares server connections gives its clients a cancellation key of its own. The process id in
    it is then not that of the server process that answers. Such a connection may lead to another server
    connection in each transaction. LISTEN, prepared statements and advisory locks belong to a session, and do
    not work on it.
    """
    return bool(connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()"))


async def _nothing(_: object) -> None:
    pass


class _Acquired(PoolAcquireContext):
    """A connection of the pool for the length of a block. Names the role that a missing privilege needs."""

    async def __aexit__(self, *error: Any) -> None:
        cause = error[1] if error else None
        if self.connection is not None and spoils_session(cause):
            self.connection.terminate()
            # The other sessions are as old: after a fail-over they are connected to the same standby.
            await self.pool.expire_connections()
        if isinstance(cause, asyncpg.InsufficientPrivilegeError) and self.connection is not None:
            cause = privilege_missing(cause, self.connection.get_settings().session_authorization)
        await super().__aexit__(*error)
        if isinstance(cause, PrivilegeMissing):
            raise cause from None


class _Replanning(_AnyConnection):
    """A connection that keeps its plans for `PLANS_LAST_S`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.replanned_at = time.monotonic()

    async def replan(self) -> None:
        """Have statements planned anew when they next run, if their plans may be older than that."""
        if time.monotonic() - self.replanned_at > PLANS_LAST_S:
            try:
                await self.execute("DISCARD PLANS", timeout=REPLAN_TIMEOUT)
            except BaseException:
                # asyncpg would close it, and wait ten seconds for an answer to that.
                self.terminate()
                raise
            self.replanned_at = time.monotonic()


async def _replanned(connection: Any) -> None:
    await connection.replan()


class Pool(_AnyPool):
    """A pool that drops a connection on which Postgres has fallen silent, or that can only read.

    A caller that stops waiting for a statement returns its connection. asyncpg then first waits until
    Postgres confirms that the statement is cancelled, for up to ``command_timeout``. A silent Postgres never
    confirms, so each statement that had timed out took ten seconds more.
    """

    def acquire(self, *, timeout: float | None = None) -> Any:
        """Return a connection for the length of a block. A broken one is not passed on to the next caller."""
        return _Acquired(self, timeout)

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        """Return a connection to the pool, or close it if that takes longer than `RELEASE_TIMEOUT`."""
        # Return closed connections as well. Do not raise here: it would mask the original error, such as the
        # cancellation of the asyncio task.
        with suppress(TimeoutError):
            await super().release(connection, timeout=timeout or RELEASE_TIMEOUT)


async def open_pool(dsn: str, *, connections: int, application_name: str) -> asyncpg.Pool[Any]:
    """Return a pool whose connections are made again when they break.

    Args:
        dsn: Postgres connection URL.
        connections: Most connections at once.
        application_name: Name of the connections in Postgres.

    Raises:
        ConfigurationError: A pooler is in between, and transactions have another isolation level.
        Exception: Any error of `CONNECT_ERRORS`; `unavailable` makes one line of it.
    """
    options: dict[str, Any] = {}
    settings = {"application_name": application_name}
    options.update(session_attributes(dsn))
    first = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, statement_cache_size=0, **options)
    try:
        pooled = await behind_pooler(first)
        if pooled and (level := await first.fetchval("SHOW default_transaction_isolation")) != ISOLATION:
            # A pooler accepts no settings of ours, and a statement cannot name its level without two more
            # statements.
            raise ConfigurationError(
                f"transactions at {describe(dsn)} are {level} by default, and the queue needs {ISOLATION}",
                f"ALTER ROLE ... SET default_transaction_isolation = '{ISOLATION}', or leave out the pooler",
            )
    finally:
        first.terminate()
    if pooled:
        # A statement prepared on one server connection would be missing on another. Without the cache,
        # statements are parsed and planned each time. PgBouncer also refuses settings that it does not know.
        options["statement_cache_size"] = 0
    else:
        # Postgres keeps a plan from the sixth run of a statement on, where it finds that as good as planning
        # each time: 1 ms of a claim, whose statement is long.
        settings["plan_cache_mode"] = "auto"
        settings["default_transaction_isolation"] = ISOLATION
    return await Pool(
        dsn,
        min_size=1,
        max_size=connections,
        timeout=CONNECT_TIMEOUT,
        command_timeout=COMMAND_TIMEOUT,
        server_settings=settings,
        # The queue leaves nothing behind in a session. The default reset spends a round trip on cleaning up
        # after every statement.
        reset=_nothing,
        init=read_any_moment,
        setup=None if pooled else _replanned,
        # The defaults of `asyncpg.create_pool`.
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        connection_class=_Replanning,
        record_class=asyncpg.Record,
        loop=None,
        **options,
    )
