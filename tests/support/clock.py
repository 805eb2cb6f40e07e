"""Setting the only clock that decides: the database's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from organism_flows.blocks.queue import Queue
from tests.support.sql import pool_of

START = datetime(2030, 1, 1, tzinfo=UTC)


async def set_clock(queue: Queue, moment: datetime) -> None:
    """Make it ``moment`` for every session of the database, from now on and until set again."""
    await pool_of(queue).execute(
        "CREATE OR REPLACE FUNCTION queue_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE "
        f"AS $$ SELECT timestamptz '{moment.isoformat()}' $$"
    )


async def advance(queue: Queue, seconds: float) -> None:
    """Let ``seconds`` pass at once."""
    await set_clock(queue, await queue.reader.now() + timedelta(seconds=seconds))
