"""Connecting to Postgres, with errors that say what to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
from asyncpg.exceptions import InternalClientError

from blocks.errors import QueueUnavailable

if TYPE_CHECKING:
    _AnyPool = asyncpg.Pool[Any]
else:
    _AnyPool = asyncpg.Pool  # generic for type checkers only

CONNECT_TIMEOUT = 10.0
COMMAND_TIMEOUT = 10.0
"""Seconds for a statement that names no timeout of its own."""
RELEASE_TIMEOUT = 1.0
"""Seconds for Postgres to confirm that it cancels a statement, before the connection is given up."""

WAIT_POLL_S = 0.5

TRANSIENT_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # An administrator's doing: shutdown, crash, recovery, a cancelled statement.
    asyncpg.OperatorInterventionError,
    # No connection, memory or disk space left.
    asyncpg.InsufficientResourcesError,
    asyncpg.DeadlockDetectedError,
    # A connection that the server closed at the wrong moment leaves asyncpg's state machine confused
    # ("cannot switch to state 15; another operation (2) is in progress"); the pool discards it.
    InternalClientError,
)
"""What a restarting, overloaded or unreachable Postgres raises: the call may be made again."""

CONNECT_ERRORS: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, asyncpg.PostgresError, ValueError)
"""What trying to connect may raise."""


def describe(dsn: str) -> str:
    """``host:port/database`` of a connection URL: what may be shown of it."""
    try:
        url = urlsplit(dsn)
        host = url.hostname or "local socket"
        port = f":{url.port}" if url.port else ""
    except ValueError:
        return "(a URL that cannot be read)"
    return f"{host}{port}{url.path or ''}"


def unavailable(dsn: str, error: BaseException) -> QueueUnavailable:
    """The one line for a connection that could not be made."""
    where = describe(dsn)
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return QueueUnavailable(
                f"Postgres at {where} refuses this login: {error}",
                "correct user and password in ORGANISM_DSN",
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
        case TimeoutError():
            reason = f"no answer within {CONNECT_TIMEOUT:g} s"
        case _:
            reason = str(error) or type(error).__name__
    return QueueUnavailable(
        f"cannot reach Postgres at {where}: {reason}",
        "start it, or correct ORGANISM_DSN (unset: the embedded one, started by `organism up`)",
    )


async def connect(dsn: str, **options: Any) -> asyncpg.Connection[Any]:
    """One connection.

    Raises:
        QueueUnavailable: It cannot be made; the message never holds the password.
    """
    try:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, **options)
        return connection
    except CONNECT_ERRORS as error:
        raise unavailable(dsn, error) from None


async def wait_for_postgres(dsn: str, *, within_s: float, on_wait: Callable[[str], None]) -> None:
    """Return when Postgres lets us in, however long it takes to come up.

    Args:
        dsn: Postgres connection URL.
        within_s: Seconds to wait at most. A wrong login or database is said at once.
        on_wait: Called with why there is anything to wait for, once.

    Raises:
        QueueUnavailable: It did not come up in time, or refuses us.
    """
    deadline = time.monotonic() + within_s
    waiting = False
    while True:
        try:
            connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT)
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
    """Whether a pooler, such as PgBouncer, stands between ``connection`` and Postgres.

    A pooler that hands out server connections in turn gives its clients a cancellation key of its own, so the
    process id in it is not that of the server process that answers. Such a connection may be another one for
    each transaction: what belongs to a session, as LISTEN, prepared statements and advisory locks, does not
    work on it.
    """
    return bool(connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()"))


async def _nothing(_: object) -> None:
    pass


class Pool(_AnyPool):
    """A pool that gives a connection up on which Postgres has fallen silent.

    Whoever stops waiting for a statement gives its connection back, and asyncpg first has Postgres confirm
    that the statement is cancelled, for as long as ``command_timeout``. One that says nothing confirms
    nothing, so whatever had just run into its timeout took ten seconds more.
    """

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        """Give a connection back; when that takes longer than `RELEASE_TIMEOUT` it is closed instead."""
        # Closed is given back too; and an error here would take the place of the one that led here, such as
        # that the task is cancelled.
        with suppress(TimeoutError):
            await super().release(connection, timeout=timeout or RELEASE_TIMEOUT)


async def open_pool(dsn: str, *, connections: int, application_name: str) -> asyncpg.Pool[Any]:
    """A pool of up to ``connections`` connections, made again when they break.

    Raises:
        What asyncpg raises; `unavailable` makes one line of it.
    """
    options: dict[str, Any] = {}
    settings = {"application_name": application_name}
    first = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, statement_cache_size=0)
    try:
        pooled = await behind_pooler(first)
    finally:
        first.terminate()
    if pooled:
        # Statements are prepared on one server connection and would be looked for on another. Parsed anew
        # each time, they are planned anew as well; and PgBouncer refuses settings it does not know.
        options["statement_cache_size"] = 0
    else:
        # A plan made while the table was small would be kept when it is not: a settlement that scans it.
        # Planning each time costs 0.2 ms a claim.
        settings["plan_cache_mode"] = "force_custom_plan"
    return await Pool(
        dsn,
        min_size=1,
        max_size=connections,
        timeout=CONNECT_TIMEOUT,
        command_timeout=COMMAND_TIMEOUT,
        server_settings=settings,
        # Nothing of the queue leaves anything behind in a session, and the default spends a round trip after
        # every statement on cleaning up.
        reset=_nothing,
        # What `asyncpg.create_pool` would say.
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        loop=None,
        **options,
    )
