"""A database that cannot be written, or not now: 503 and not ready, and ready again by itself."""

from __future__ import annotations

import asyncpg
import pytest

from organism_flows.blocks.queue.db.roles import OPERATOR, SUBMITTER
from organism_flows.deployments.stack.health import check_postgres
from tests.support.gateway.running import Gateway, running
from tests.support.queue.logins import new_login
from tests.support.queue.read_only import refusing_writes, set_read_only

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def every_check_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("organism_flows.serve_apps.gateway.database.CHECK_PAUSE_S", 0.0)


@pytest.mark.parametrize("state", ["53100", "55P03", "42501", "XX000"])
async def test_a_task_that_cannot_be_added_now_is_503(database: str, state: str) -> None:
    async with running(database) as gateway:
        assert (await gateway.http.get("/readyz")).status_code == 200
        async with refusing_writes(database, state):
            answer = await gateway.http.post("/api/tasks", json={"type": "t"})
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:organism:unavailable")
            assert answer.headers["Retry-After"]
            assert "not now" in answer.json()["detail"]
            ready = await gateway.http.get("/readyz")
            assert ready.status_code == 503
            assert "not now" in ready.json()["detail"]
            assert (await gateway.http.get("/healthz")).status_code == 200
            assert (await gateway.http.get("/api/tasks")).status_code == 200
            check = await check_postgres(database)
            assert not check.ok
            assert "not now" in check.evidence
        assert (await gateway.http.post("/api/tasks", json={"type": "t"})).status_code == 201
        assert (await gateway.http.get("/readyz")).status_code == 200
        assert (await check_postgres(database)).ok
        # The checks have left nothing.
        assert len((await gateway.http.get("/api/tasks")).json()["tasks"]) == 1


async def test_a_database_that_turns_read_only_and_back(gateway: Gateway, database: str) -> None:
    await gateway.submit()
    connection = await asyncpg.connect(database)
    name = await connection.fetchval("SELECT current_database()")
    await connection.close()
    await set_read_only(database, name, "on")
    for _ in range(5):  # whatever session it has
        answer = await gateway.http.post("/api/tasks", json={"type": "t"})
        assert answer.status_code == 503, answer.text
        assert (await gateway.http.get("/readyz")).status_code == 503
    assert (await gateway.http.get("/api/tasks")).status_code == 200
    connection = await asyncpg.connect(database, server_settings={"default_transaction_read_only": "off"})
    await connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    await connection.close()
    # The sessions from before can only read for ever: the next one is new.
    answer = await gateway.http.post("/api/tasks", json={"type": "t"})
    if answer.status_code == 503:
        answer = await gateway.http.post("/api/tasks", json={"type": "t"})
    assert answer.status_code == 201, answer.text
    assert (await gateway.http.get("/readyz")).status_code == 200


async def test_a_login_that_may_only_submit(database: str) -> None:
    async with running(await new_login(database, SUBMITTER)) as gateway:
        assert (await gateway.http.get("/readyz")).status_code == 200
        await gateway.submit({"type": "t", "dedup_key": "k"}, {"type": "t", "dedup_key": "k"})
        answer = await gateway.http.get("/api/tasks")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:organism:unavailable")
        assert "permission denied for table tasks" in answer.json()["detail"]
        assert f"GRANT {OPERATOR} TO" in answer.json()["next_step"]
