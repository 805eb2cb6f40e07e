"""Moments of Postgres that Python cannot hold: before the year 1, after 9999, and infinity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST = (FIRST - _EPOCH) // _MICROSECOND
_LAST = (LAST - _EPOCH) // _MICROSECOND


async def read_any_moment(connection: asyncpg.Connection[Any]) -> None:
    """Make ``connection`` return `FIRST` or `LAST` for moments beyond them.

    asyncpg raises for such a moment, so one row with it would make every list unreadable that contains the
    row. It also returns infinity without a time zone, which cannot be compared with other moments.
    """
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_encode, decoder=_decode, format="tuple"
    )


def _decode(value: tuple[int]) -> datetime:
    microseconds = value[0]
    if microseconds <= _FIRST:
        return FIRST
    if microseconds >= _LAST:
        return LAST
    return _EPOCH + timedelta(microseconds=microseconds)


def _encode(moment: datetime) -> tuple[int]:
    return ((moment.astimezone(UTC) - _EPOCH) // _MICROSECOND,)
