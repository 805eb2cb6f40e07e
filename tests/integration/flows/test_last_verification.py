"""What verify found last is kept where the board finds it."""

from __future__ import annotations

import pytest

from organism_flows.blocks.finding import failed, ok
from organism_flows.blocks.queue import Queue
from organism_flows.flows.verification.runner import record
from organism_flows.flows.verification.verification import Verification
from tests.support.gateway.running import running
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


async def test_the_board_shows_the_last_verification(queue: Queue, database: str) -> None:
    await record(queue, Verification(findings=[ok("postgres: clock", "it is right")]))
    await record(queue, Verification(findings=[failed("ray: reachable", "it is gone", "start it")]))
    async with running(database) as gateway:
        seen = (await gateway.http.get("/api/overview")).json()
    last = seen["queue"]["verification"]
    assert (last["status"], last["line"]) == ("failed", "ray: reachable failed: it is gone")
    assert last["run"] is None, "it was no flow"
    assert any(one["what"].startswith("The last verification: ray") for one in seen["attention"])


async def test_a_queue_that_is_gone_does_not_end_a_verification(database: str) -> None:
    async with Queue(database) as queue:
        await pool_of(queue).execute("DROP TABLE task_audit")
        await record(queue, Verification(findings=[]))
