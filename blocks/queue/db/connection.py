"""Connecting to Postgres, with errors that say what to do."""

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
from organism_flows.blocks.queue.timestamps import read_any_moment

if TYPE_CHECKING:
    _AnyPool = asyncpg.Pool[Any]
else:
    _AnyPool = asyncpg.Pool  # generic for type checkers only

# While Postgres is away it warns with a traceback each time it cannot connect. The next statement says so.
logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)

CONNECT_TIMEOUT = 10.0
COMMAND_TIMEOUT = 10.0
"""Seconds for a statement that names no timeout of its own."""
RELEASE_TIMEOUT = 1.0
"""Seconds for Postgres to confirm that it cancels a statement, before the connection is given up."""

WAIT_POLL_S = 0.5

ISOLATION = "read committed"
"""The level that the statements are written for: they judge a row anew that was locked when they came."""

CONNECT_ERRORS: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, asyncpg.PostgresError, ValueError)
"""What trying to connect may raise."""


def describe(dsn: str) -> str:
    """``host:port/database`` of a connection URL: what may be shown of it."""
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
    """The one line for a connection that could not be made."""
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
                "have an administrator GRANT CONNECT ON DATABASE … TO this login; see docs/roles.md",
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
    """Return the options with which one of several hosts is chosen that takes writes.

    A single host is taken as it is: while it is read only, reading goes on.
    """
    url = urlsplit(dsn)
    several = "," in url.netloc or re.search(r"(^|&)host=[^&]*(,|%2C)", url.query, re.IGNORECASE)
    if not several or "target_session_attrs" in url.query:
        return {}
    return {"target_session_attrs": "read-write"}


async def connect(dsn: str, **options: Any) -> asyncpg.Connection[Any]:
    """One connection.

    Raises:
        QueueUnavailable: It cannot be made; the message never holds the password.
    """
    try:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT, **session_attributes(dsn), **options
        )
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
    """Whether a pooler, such as PgBouncer, stands between ``connection`` and Postgres.

    A pooler that hands out server connections in turn gives its clients a cancellation key of its own, so the
    process id in it is not that of the server process that answers. Such a connection may be another one for
    each transaction: what belongs to a session, as LISTEN, prepared statements and advisory locks, does not
    work on it.
    """
    return bool(connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()"))


async def _nothing(_: object) -> None:
    pass


class _Acquired(PoolAcquireContext):
    """A connection of the pool for as long as the block lasts; a missing privilege is named with its role."""

    async def __aexit__(self, *error: Any) -> None:
        cause = error[1] if error else None
        if self.connection is not None and spoils_session(cause):
            self.connection.terminate()
            # The other sessions are as old: after a fail-over they lead to the same standby.
            await self.pool.expire_connections()
        if isinstance(cause, asyncpg.InsufficientPrivilegeError) and self.connection is not None:
            cause = privilege_missing(cause, self.connection.get_settings().session_authorization)
        await super().__aexit__(*error)
        if isinstance(cause, PrivilegeMissing):
            raise cause from None


class Pool(_AnyPool):
    """A pool that gives a connection up on which Postgres has fallen silent, or that can only read.

    Whoever stops waiting for a statement gives its connection back, and asyncpg first has Postgres confirm
    that the statement is cancelled, for as long as ``command_timeout``. One that says nothing confirms
    nothing, so whatever had just run into its timeout took ten seconds more.
    """

    def acquire(self, *, timeout: float | None = None) -> Any:
        """A connection for the length of a block; what made it useless is not left to the next."""
        return _Acquired(self, timeout)

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        """Give a connection back; when that takes longer than `RELEASE_TIMEOUT` it is closed instead."""
        # Closed is given back too; and an error here would take the place of the one that led here, such as
        # that the task is cancelled.
        with suppress(TimeoutError):
            await super().release(connection, timeout=timeout or RELEASE_TIMEOUT)


async def open_pool(dsn: str, *, connections: int, application_name: str) -> asyncpg.Pool[Any]:
    """A pool of up to ``connections`` connections, made again when they break.

    Raises:
        ConfigurationError: A pooler stands between, and transactions are of another isolation level.
        What asyncpg raises; `unavailable` makes one line of it.
    """
    options: dict[str, Any] = {}
    settings = {"application_name": application_name}
    options.update(session_attributes(dsn))
    first = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, statement_cache_size=0, **options)
    try:
        pooled = await behind_pooler(first)
        if pooled and (level := await first.fetchval("SHOW default_transaction_isolation")) != ISOLATION:
            # A pooler takes no settings of ours, and a statement cannot name its level without two more.
            raise ConfigurationError(
                f"transactions at {describe(dsn)} are {level} by default, and the queue needs {ISOLATION}",
                f"ALTER ROLE ... SET default_transaction_isolation = '{ISOLATION}', or leave out the pooler",
            )
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
        settings["default_transaction_isolation"] = ISOLATION
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
        init=read_any_moment,
        # What `asyncpg.create_pool` would say.
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        loop=None,
        **options,
    )
