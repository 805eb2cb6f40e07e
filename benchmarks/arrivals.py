"""Tasks that arrive one by one at a steady rate, and how long each takes until a client knows it is done.

Both ends are taken by one client's clock: from just before its INSERT until a notification tells it that the
settlement was committed. A trigger that exists only while the benchmark runs sends the notifications; like
every part of the way it costs something, and the figures include it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg

from benchmarks.figures import Unmeasured
from organism_flows.blocks.gc_tuning import collect_rarely

PATIENCE_S = 90.0
"""After the last task was sent."""
CONNECTIONS = 8

INSERT = "INSERT INTO tasks (id, type, params, key) VALUES ($1, $2, $3::text::jsonb, $4)"
TRIGGER = """
    CREATE OR REPLACE FUNCTION bench_done() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_notify('bench_done', NEW.id::text); RETURN NULL; END $$;
    CREATE OR REPLACE TRIGGER bench_done AFTER UPDATE OF status ON tasks FOR EACH ROW
    WHEN (NEW.status IN ('completed', 'failed')) EXECUTE FUNCTION bench_done();
"""
NO_TRIGGER = "DROP TRIGGER IF EXISTS bench_done ON tasks; DROP FUNCTION IF EXISTS bench_done"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A task to send."""

    type: str
    params: dict[str, Any]
    kind: str
    """Which tasks it is counted with."""
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A task that was sent and done, in seconds by the client's clock."""

    kind: str
    id: str
    sent: float
    done: float

    @property
    def latency_ms(self) -> float:
        return (self.done - self.sent) * 1000


async def steadily(rate: float, seconds: float, send: Callable[[int], Any]) -> None:
    """Call ``send(i)`` every ``1 / rate`` seconds, without waiting for it, and then for all of them."""
    started = time.perf_counter()
    under_way = []
    for i in range(int(rate * seconds)):
        await asyncio.sleep(max(started + i / rate - time.perf_counter(), 0))
        under_way.append(asyncio.create_task(send(i)))
    await asyncio.gather(*under_way)


class Client:
    """Sends tasks and hears of their completion."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._done: dict[str, float] = {}
        self._heard = asyncio.Event()

    def hear(self, _connection: Any, _pid: int, _channel: str, task_id: Any) -> None:
        """A notification came."""
        self._done[task_id] = time.perf_counter()
        self._heard.set()

    async def trickle(self, rate: float, seconds: float, arrival: Callable[[int], Arrival]) -> list[Seen]:
        """Send ``arrival(i)`` at ``rate`` a second, wait until all are done, and return them in order.

        Raises:
            Unmeasured: Some never were.
        """
        sent: list[tuple[str, str, float]] = []

        async def send(i: int) -> None:
            task = arrival(i)
            task_id = uuid4()
            sent.append((task.kind, str(task_id), time.perf_counter()))
            await self._pool.execute(INSERT, task_id, task.type, json.dumps(task.params), task.key)

        await steadily(rate, seconds, send)
        deadline = time.monotonic() + PATIENCE_S
        while any(task_id not in self._done for _, task_id, _ in sent):
            if time.monotonic() > deadline:
                left = sum(task_id not in self._done for _, task_id, _ in sent)
                raise Unmeasured(f"{left} of {len(sent)} tasks were not done {PATIENCE_S:g} s after the last")
            self._heard.clear()
            try:
                await asyncio.wait_for(self._heard.wait(), 1)
            except TimeoutError:
                continue
        return [Seen(kind, task_id, at, self._done.pop(task_id)) for kind, task_id, at in sent]


@asynccontextmanager
async def client(dsn: str) -> AsyncIterator[Client]:
    """A client, with the trigger in place."""
    # The clock is in this process, and looking through all that Ray and Prefect have made stops it for 60 ms.
    collect_rarely()
    async with asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        await pool.execute(TRIGGER)
        listener = await asyncpg.connect(dsn)
        try:
            one = Client(pool)
            await listener.add_listener("bench_done", one.hear)
            yield one
        finally:
            await listener.close()
            await pool.execute(NO_TRIGGER)
