"""Whatever row the table can hold, no route has a defect for it, and all others can be read."""

from __future__ import annotations

import asyncpg
import pytest

from tests.support.gateway.running import Gateway
from tests.support.queue.hostile_rows import (
    FRACTION,
    JSON,
    STATUSES,
    TYPES,
    WORST,
    insert,
    take_any_row,
)

pytestmark = pytest.mark.anyio


async def test_every_route_answers_for_every_row(gateway: Gateway, database: str) -> None:
    connection = await asyncpg.connect(database)
    await take_any_row(connection)
    rows = [
        *({**WORST, "status": status} for status in STATUSES),
        *({**WORST, "params": text, "result": text, "status": "completed"} for text in (*JSON, FRACTION)),
        *({**WORST, "type": type, "status": "retry", "run_after": "infinity"} for type in TYPES),
    ]
    ids = [str(await insert(connection, row)) for row in rows]
    await connection.close()
    [healthy] = await gateway.submit({"type": "healthy"})
    # Each answer is held against the published description as well.
    listed = await gateway.http.get("/api/tasks", params={"limit": 100})
    assert {task["id"] for task in listed.json()["tasks"]} == {*ids, healthy}
    assert (await gateway.http.get("/api/tasks", params={"error": "boom"})).status_code == 200
    for path in ("/metrics", "/readyz", "/api/pauses"):
        assert (await gateway.http.get(path)).status_code == 200
    for task in ids:
        for path in ("", "/status", "/why", "/wait?timeout=0"):
            answer = await gateway.http.get(f"/api/tasks/{task}{path}")
            assert answer.status_code == 200, answer.text
    for task in ids:
        for verb in ("run", "cancel", "retry"):
            answer = await gateway.http.post(f"/api/tasks/{task}/{verb}")
            assert answer.status_code in (200, 409), answer.text
    for verb in ("cancel", "redrive"):
        answer = await gateway.http.post(f"/api/tasks/{verb}", json={"type": "hostile", "dry_run": False})
        assert answer.status_code == 200, answer.text
    assert (await gateway.http.get(f"/api/tasks/{healthy}")).json()["status"] == "queued"


async def test_what_readers_of_json_refuse_is_said(gateway: Gateway, database: str) -> None:
    connection = await asyncpg.connect(database)
    [nested, digits, large] = [
        await insert(connection, {"type": "t", "params": text}) for text in (JSON[1], JSON[2], JSON[3])
    ]
    await connection.close()
    shown = [
        (await gateway.http.get(f"/api/tasks/{task}")).json()["params"] for task in (nested, digits, large)
    ]
    assert shown[0] == "(not shown: nested deeper than 254 levels)"
    assert shown[1] == {"n": "(not shown: an integer of 5,000 digits, more than 4,300)"}
    assert shown[2] == {"n": 602200000000000000000000}
