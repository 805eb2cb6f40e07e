"""What a dispatch run says when Postgres goes away before it has begun."""

from __future__ import annotations

import asyncio
import logging

import pytest

from blocks.errors import QueueUnavailable
from blocks.queue import Queue
from flows import supervisor as module
from flows.lane_task import LaneOptions, LaneRun
from flows.supervisor import Supervisor
from tests.proxy import proxied

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("until_empty", [False, True])
async def test_a_postgres_that_went_away_is_named(
    database: str, monkeypatch: pytest.MonkeyPatch, until_empty: bool
) -> None:
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("test"))

    def start_lane(number: int, seconds: float | None) -> LaneRun:
        raise AssertionError("no lane without a queue")

    options = LaneOptions(
        run="r", batch_size=1, tasks_in_flight=1, until_empty=until_empty, max_seconds=None, grace_s=1
    )
    async with proxied(database) as proxy:
        queue = Queue(proxy.dsn)
        await queue.__aenter__()
        proxy.cut()
    # Its port is closed, as that of a server that is down.
    with pytest.raises(QueueUnavailable, match=r"127\.0\.0\.1"):
        await Supervisor(queue, options, start_lane, 1, asyncio.Event()).run()
    await queue.close()
