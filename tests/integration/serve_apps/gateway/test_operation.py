"""Health, readiness, metrics, and Postgres going away and coming back."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from organism_flows.blocks.queue import Batch, Closing, Limit, NewTask, Queue, migrate
from organism_flows.blocks.queue.db.connection import COMMAND_TIMEOUT
from organism_flows.serve_apps.gateway.metrics import metrics
from tests.conftest import Databases
from tests.support.bouncer import bounced
from tests.support.clock import START, advance, set_clock
from tests.support.gateway.problems import check_problem
from tests.support.gateway.running import Gateway, running
from tests.support.proxy import proxied
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio
TIMEOUT = 60
LABELS = ("method", "route", "type", "status", "limit", "key", "state", "kind", "name")


async def measured(gateway: Gateway) -> dict[str, dict[tuple[str, ...], float]]:
    answer = await gateway.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    figures: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = tuple(sample.labels[name] for name in LABELS if name in sample.labels)
                figures.setdefault(family.name, {})[labels] = sample.value
    return figures


async def ready(gateway: Gateway) -> bool:
    return (await gateway.http.get("/readyz")).status_code == 200


async def test_metrics_tell_what_the_queue_holds(gateway: Gateway, queue: Queue) -> None:
    await set_clock(queue, START)
    await queue.submit([NewTask(type='q"uote\n'), NewTask(type="t"), NewTask(type="t")])
    await queue.submit([NewTask(type="later", run_after=START + timedelta(days=1))])
    await queue.submit([NewTask(type="not yet", run_immediately=False)])
    await queue.operator.pause("type", 'q"uote\n')
    until = START + timedelta(days=1)
    await queue.operator.set_limit(Limit(name="four", kind="running", types=["t"], amount=4))
    await queue.operator.set_limit(Limit(name="rate", kind="rate", amount=4000, period_s=1))
    await queue.operator.close(Closing(kind="type", name="t", key="acme", until=until))
    batch = await claim(queue)
    failed = batch.take([0])
    await queue.claims.settle("lane", failed, outcomes_of(failed, "rejected", error="x"))
    await queue.submit([NewTask(type="due", expires_in_s=11) for _ in range(3)])
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, status, finished_at) VALUES ('due', 'completed', queue_now())"
    )
    await advance(queue, 10)
    figures = await measured(gateway)
    assert figures["organism_tasks"] == {
        ('q"uote\n', "queued"): 1, ("t", "running"): 1, ("t", "failed"): 1, ("later", "queued"): 1,
        ("not yet", "created"): 1, ("due", "queued"): 3, ("due", "completed"): 1,
    }  # fmt: skip
    late = {labels: tasks for labels, tasks in figures["organism_tasks_late"].items() if tasks}
    assert late == {("due",): 3}, "one in 10 s completes"
    oldest = figures["organism_oldest_task_seconds"]
    assert (oldest["t", "running"], oldest["t", "failed"], oldest["later", "queued"]) == (10, 10, 0)
    assert figures["organism_lanes"] == {("live",): 1, ("leaving",): 0, ("stopping",): 0, ("silent",): 0}
    for name in ("suspects", "interrupted", "handed_over"):
        assert figures[f"organism_tasks_{name}"] == {(): 0}
    assert figures["organism_pauses"] == {("type",): 1, ("domain",): 0}
    assert figures["organism_closures"] == {("type",): 1, ("limit",): 0}
    assert figures["organism_limit_use"] == {("four",): 0.25}, "one of t runs, one has failed"
    assert figures["organism_closed_seconds"] == {("type", "t"): 10}
    assert figures["organism_postgres_up"] == {(): 1}
    assert figures["organism_gateway_waiters"] == {(): 0}
    await gateway.http.get("/api/tasks/unknown-and-many")
    requests = (await measured(gateway))["organism_gateway_requests"]
    assert requests["GET", "/api/tasks/{task_id}", "422"] == 1
    assert requests["GET", "/metrics", "200"] >= 1


async def test_of_keys_only_those_that_use_or_wait_most_are_told(gateway: Gateway, queue: Queue) -> None:
    await set_clock(queue, START)
    limit = Limit(name="each", kind="running", types=["t"], by_key=True, amount=20, exceptions={"k7": 5})
    await queue.operator.set_limit(limit)
    keys = [f"k{n}" for n in range(15)]
    await queue.submit([NewTask(type="t", key=key) for n, key in enumerate(keys) for _ in range(n)])
    await claim(queue, limit=1000)
    for number, key in enumerate(keys):
        await queue.submit([NewTask(type="w", key=key, run_after=START - timedelta(minutes=number))])
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, key, status, finished_at) "
        "SELECT 'w', 'busy', 'completed', queue_now() - i * interval '1 s' FROM generate_series(1, 50) i"
    )
    await advance(queue, 120)
    figures = await measured(gateway)
    used = figures["organism_limit_key_use"]
    assert len(used) == 10
    assert (used["each", "k7"], used["each", "k14"]) == (1.0, 0.7)
    assert ("each", "k4") not in used
    waits = figures["organism_line_oldest_seconds"]
    assert set(waits.values()) == {120.0}, "a task waits from when it was added"
    assert len(waits) == 10
    assert len(figures["organism_line_starved_seconds"]) == 10
    assert figures["organism_starved_lines"] == {(): 15}


async def test_metrics_tell_of_suspects_interruptions_and_lanes_that_leave(
    gateway: Gateway, queue: Queue
) -> None:
    [task_id] = await queue.submit([NewTask(type="t")])
    await queue.leases.register("lane", run="run")
    for _ in range(3):
        batch = await claim(queue)
        await queue.claims.release("lane", batch, cause="interrupted", error="x", suspicion=1)
    await claim(queue)
    await pool_of(queue).execute("UPDATE tasks SET locked_at = locked_at - interval '2 minutes'")
    await queue.operator.request_leave("run")
    figures = await measured(gateway)
    assert figures["organism_lanes"] == {("live",): 0, ("leaving",): 1, ("stopping",): 0, ("silent",): 0}
    for name in ("suspects", "interrupted", "handed_over"):
        assert figures[f"organism_tasks_{name}"] == {(): 1}
    shown = (await gateway.http.get(f"/api/tasks/{task_id}")).json()
    assert (shown["interrupted"], shown["suspicion"], shown["begun_at"]) == (3, 3, None)
    why = (await gateway.http.get(f"/api/tasks/{task_id}/why")).json()
    assert (why["reason"], why["interrupted"], why["lane_leaving_at"] is None) == ("handed_over", 3, False)
    await queue.claims.begun(batch := await _held(queue))
    assert len(batch) == 1
    assert (await gateway.http.get(f"/api/tasks/{task_id}/why")).json()["reason"] == "running"
    assert (await gateway.http.get(f"/api/tasks/{task_id}")).json()["begun_at"] is not None


async def _held(queue: Queue) -> Batch:
    rows = await pool_of(queue).fetch("SELECT id::text, claim FROM tasks WHERE status = 'running'")
    return Batch(ids=[row["id"] for row in rows], claims=[row["claim"] for row in rows])


async def test_types_beyond_a_hundred_are_counted_as_one(
    gateway: Gateway, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "TYPES_LIMIT", 2)
    await queue.submit([NewTask(type=t) for t in ("a", "a", "a", "b", "b", "c", "d")])
    assert (await measured(gateway))["organism_tasks"] == {
        ("a", "queued"): 3, ("b", "queued"): 2, ("(others)", "queued"): 2,
    }  # fmt: skip


async def test_a_long_count_is_not_made_at_every_scrape(
    gateway: Gateway, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "READ_SHARE", 1_000_000)
    assert "organism_tasks" not in await measured(gateway)
    await queue.submit([NewTask(type="t")])
    assert "organism_tasks" not in await measured(gateway)


# Postgres away


async def test_postgres_goes_away_and_comes_back(database: str, queue: Queue) -> None:
    async with proxied(database) as proxy, running(proxy.dsn) as gateway:
        [task_id] = await gateway.submit()
        waiting = asyncio.create_task(gateway.http.get(f"/api/tasks/{task_id}/wait?timeout=300"))
        await until(lambda: gateway.parts.waiting.waiters == 1)
        proxy.refuse()
        for method, path, body in (
            ("GET", "/readyz", None),
            ("GET", "/api/tasks", None),
            ("GET", f"/api/tasks/{task_id}", None),
            ("GET", f"/api/tasks/{task_id}/why", None),
            ("GET", f"/api/tasks/{task_id}/events", None),
            ("POST", "/api/tasks", {"type": "t"}),
            ("POST", f"/api/tasks/{task_id}/cancel", None),
            ("POST", "/api/tasks/cancel", {"type": "t"}),
        ):
            answer = await gateway.http.request(method, path, json=body)
            assert check_problem(answer).status == 503, path
            assert int(answer.headers["retry-after"]) > 0
        assert (await gateway.http.get("/healthz")).status_code == 200
        assert (await measured(gateway))["organism_postgres_up"] == {(): 0}
        # Bad input is told as such all the same.
        assert (await gateway.http.post("/api/tasks", json={})).status_code == 422
        proxy.accept()
        await until(lambda: ready(gateway))
        await gateway.submit()
        batch = await claim(queue)
        await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
        answer = await asyncio.wait_for(waiting, TIMEOUT)
        assert answer.json()["status"] == "completed", "who waited has not noticed"
        assert (await measured(gateway))["organism_postgres_up"] == {(): 1}


async def test_a_silent_postgres_is_told_in_time(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("organism_flows.serve_apps.gateway.http.auth.REQUEST_TIMEOUT_S", 1)
    monkeypatch.setattr("organism_flows.serve_apps.gateway.database.READY_TIMEOUT_S", 1)
    async with proxied(database) as proxy, running(proxy.dsn) as gateway:
        assert await ready(gateway)
        proxy.fall_silent()
        silent = time.monotonic()
        assert check_problem(await gateway.http.get("/readyz")).status == 503
        assert time.monotonic() - silent < COMMAND_TIMEOUT, "long before the statement gives up"
        begun = time.monotonic()
        answer = await gateway.http.get("/api/tasks")
        assert check_problem(answer).status == 503
        assert time.monotonic() - begun < 4, "it waits for one second, and not until asyncpg gives up"
        answers = await asyncio.gather(*(gateway.http.get("/api/tasks") for _ in range(40)))
        assert {check_problem(answer).status for answer in answers} == {503}
        # One after the other, on as many connections, they would take ten times as long.
        assert time.monotonic() - silent < 4 * COMMAND_TIMEOUT
        proxy.speak()
        await until(lambda: ready(gateway))


async def test_a_gateway_starts_before_its_database(databases: Databases) -> None:
    empty = await databases.create(migrated=False)
    async with proxied(empty) as proxy:
        proxy.refuse()
        async with running(proxy.dsn) as gateway:
            problem = check_problem(await gateway.http.get("/readyz"))
            assert (problem.status, "cannot reach Postgres" in problem.detail) == (503, True)
            proxy.accept()

            async def says_to_migrate() -> bool:
                return "no tasks table" in check_problem(await gateway.http.get("/api/tasks")).detail

            await until(says_to_migrate)
            await migrate(empty)
            await until(lambda: ready(gateway))
            await gateway.submit()


async def test_no_answer_holds_the_password(databases: Databases) -> None:
    async with running("postgresql://me:hunter2@127.0.0.1:1/db") as gateway:
        for path in ("/readyz", "/healthz", "/metrics", "/api/tasks", "/openapi.json"):
            assert "hunter2" not in (await gateway.http.get(path)).text


async def test_behind_a_pooler_everything_works(database: str, queue: Queue) -> None:
    async with bounced(database) as pooled, running(pooled) as gateway:
        first, second = await gateway.submit({"type": "t"}, {"type": "t"})
        waiting = asyncio.create_task(gateway.http.get(f"/api/tasks/{first}/wait?timeout=50"))
        for path in ("", f"/{first}", f"/{first}/why", "?status=queued&created_since=2020-01-01T00:00:00Z"):
            for _ in range(8):
                assert (await gateway.http.get(f"/api/tasks{path}")).status_code == 200
        batch = (await claim(queue)).take([0])
        await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
        assert (await asyncio.wait_for(waiting, TIMEOUT)).json()["finished"]
        answer = await gateway.http.post("/api/tasks/cancel", json={"type": "t", "dry_run": False})
        assert answer.json()["requested"] == 1
        assert (await gateway.http.get(f"/api/tasks/{second}/why")).json()["reason"] == "cancelling"
        assert (await measured(gateway))["organism_postgres_up"] == {(): 1}
