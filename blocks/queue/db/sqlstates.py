"""Classification of every SQLSTATE: the error passes, is about a value, or stays."""

from __future__ import annotations

from typing import Literal, TypeAlias

import asyncpg
from asyncpg import exceptions
from asyncpg.exceptions import InternalClientError

Verdict: TypeAlias = Literal["passes", "value", "stays"]
"""What to do about an error.

- ``passes``: the server restarts, fails over, is overloaded, locked or full. The statement succeeds later.
- ``value``: Postgres cannot accept a value or a row. The statement succeeds without it.
- ``stays``: the statement fails until the database, the login or this program is changed.
"""

CLASSES: dict[str, Verdict] = {
    "01": "stays",  # warnings, which are not raised
    "02": "stays",  # no data: likewise
    "03": "stays",  # SQL statement not yet complete
    "08": "passes",  # connection; PgBouncer reports 08P01 whenever it has no server connection to give
    "09": "value",  # triggered action
    "0A": "stays",  # feature not supported
    "0B": "stays",  # invalid transaction initiation
    "0F": "stays",  # locator
    "0L": "stays",  # grantor
    "0P": "stays",  # role specification
    "0Z": "stays",  # diagnostics
    "10": "value",  # XQuery argument
    "20": "stays",  # CASE not found
    "21": "stays",  # cardinality
    "22": "value",  # data
    "23": "value",  # integrity constraint
    "24": "stays",  # cursor state
    "25": "stays",  # transaction state
    "26": "passes",  # a prepared statement is gone: a pooler or a fail-over changed the session under us
    "27": "value",  # triggered data change
    "28": "stays",  # authorization
    "2B": "stays",  # dependent privileges
    "2D": "stays",  # transaction termination
    "2F": "value",  # SQL routine
    "34": "stays",  # cursor name
    "38": "value",  # external routine: a trigger of the user's
    "39": "value",  # external routine invocation: likewise
    "3B": "stays",  # savepoint
    "3D": "stays",  # no such database
    "3F": "stays",  # no such schema
    "40": "passes",  # transaction rollback: serialization, deadlock
    "42": "stays",  # syntax, access rule, no such table
    "44": "value",  # WITH CHECK OPTION
    "53": "passes",  # resources: disk, memory, connections
    "54": "value",  # program limit: an index entry too large, nesting too deep
    "55": "passes",  # object state: locked, in use, not accepting connections
    "57": "passes",  # operator: shutdown, crash, cancelled
    "58": "passes",  # system: I/O
    "72": "passes",  # snapshot too old
    "F0": "stays",  # configuration file
    "HV": "stays",  # foreign data
    "P0": "value",  # PL/pgSQL: a trigger of the user's
    "XX": "value",  # internal, such as a text beyond 1 GB; of one row more often than of the server
}
"""Verdict by the first two characters of the SQLSTATE."""

STATES: dict[str, Verdict] = {
    "25006": "passes",  # read only: a session from before a fail-over, or a disk that is nearly full
    "25P02": "passes",  # the session was left in a failed transaction; the next one is not
    "25P03": "passes",  # idle in transaction for too long: the session was ended
    "25P04": "passes",  # transaction timeout: likewise
    "42P05": "passes",  # the prepared statement is there already: see 26
}
"""Verdict by the whole SQLSTATE, where it differs from that of its class."""

DISK_FULL = "53100"
SESSION_STATES = frozenset({"25006", "25P02", "26000", "42P05"})
"""Errors of the session, not of the server. The statement may succeed in another session."""

_CLIENT_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    # The connection was used after it broke ("connection is closed"). Also the base class of encoding errors.
    asyncpg.InterfaceError,
    # If the server closes a connection at the wrong moment, asyncpg's state machine is left confused ("cannot
    # switch to state 15; another operation (2) is in progress"). The pool discards the connection.
    InternalClientError,
    # A migration changed a table under a prepared statement; asyncpg prepares it again.
    asyncpg.InvalidCachedStatementError,
)


def verdict(error: BaseException) -> Verdict:
    """Return what to do about an error of a statement or connection."""
    if isinstance(error, (UnicodeEncodeError, asyncpg.DataError)):
        return "value"
    state = getattr(error, "sqlstate", None)
    if isinstance(error, _CLIENT_ERRORS):
        return "stays" if isinstance(error, exceptions.ClientConfigurationError) else "passes"
    return of_state(state) if state else "stays"


def of_state(sqlstate: str) -> Verdict:
    """Return the verdict for a SQLSTATE. One of an unknown class comes from a function of the user."""
    return STATES.get(sqlstate) or CLASSES.get(sqlstate[:2], "value")


def spoils_session(error: BaseException | None) -> bool:
    """Return True if the session that raised ``error`` is unusable, but another may work."""
    return getattr(error, "sqlstate", None) in SESSION_STATES


def raised_states() -> dict[str, type[asyncpg.PostgresError]]:
    """Return the class that asyncpg raises, by SQLSTATE."""
    known = (getattr(exceptions, name) for name in exceptions.__all__)
    return {
        kind.sqlstate: kind
        for kind in known
        if isinstance(kind, type) and issubclass(kind, asyncpg.PostgresError) and kind.sqlstate
    }


TRANSIENT_ERRORS: tuple[type[BaseException], ...] = (
    *_CLIENT_ERRORS,
    *(kind for state, kind in raised_states().items() if of_state(state) == "passes"),
)
"""Errors of a Postgres that restarts, is overloaded, full or unreachable. You may make the same call again.
"""
