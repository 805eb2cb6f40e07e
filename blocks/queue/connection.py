"""Connecting to Postgres, with errors that say what to do."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import asyncpg
from asyncpg.exceptions import InternalClientError

from blocks.errors import QueueUnavailable

CONNECT_TIMEOUT = 10.0

TRANSIENT_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DeadlockDetectedError,
    # A connection that the server closed at the wrong moment leaves asyncpg's state machine confused
    # ("cannot switch to state 15; another operation (2) is in progress"); the pool discards it.
    InternalClientError,
)
"""What a restarting or unreachable Postgres raises: the call may be made again."""


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
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise unavailable(dsn, error) from None
