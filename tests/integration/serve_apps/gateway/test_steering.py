"""Cancel, run, retry, and cancelling by filter."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.db.listener import Listener
from organism_flows.blocks.queue.wire import Cause
from tests.support.gateway.running import Gateway, running, token_file
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


async def steer(gateway: Gateway, task_id: str, verb: str) -> tuple[int, Any]:
    """Status code, and outcome or kind of problem."""
    answer = await gateway.http.post(f"/api/tasks/{task_id}/{verb}")
    body = answer.json()
    return answer.status_code, body.get("outcome") or body["type"].rpartition(":")[2]


async def put(queue: Queue, task_id: str, status: str) -> None:
    """Bring a fresh, queued task into ``status``, in the ways of a lane."""
    if status == "created":
        await pool_of(queue).execute("UPDATE tasks SET status = 'created' WHERE id = $1::text::uuid", task_id)
    elif status == "cancelled":
        await queue.operator.cancel([(await queue.get(task_id)).id])
    elif status != "queued":
        batch = await claim(queue)
        causes: dict[str, Cause] = {"completed": "completed", "failed": "rejected", "retry": "failed"}
        if cause := causes.get(status):
            await queue.claims.settle("lane", batch, outcomes_of(batch, cause, result="1", error="broken"))
    assert (await queue.get(task_id)).status == status


@pytest.mark.parametrize(
    ("status", "cancel", "run", "retry"),
    [
        ("created", "cancelled", "queued", "conflict"),
        ("queued", "cancelled", "unchanged", "unchanged"),
        ("retry", "cancelled", "unchanged", "unchanged"),
        ("running", "requested", "unchanged", "unchanged"),
        ("completed", "conflict", "conflict", "conflict"),
        ("failed", "conflict", "conflict", "queued"),
        ("cancelled", "unchanged", "conflict", "queued"),
    ],
)
async def test_what_each_verb_does_to_each_status(
    gateway: Gateway, queue: Queue, status: str, cancel: str, run: str, retry: str
) -> None:
    for verb, expected in (("cancel", cancel), ("run", run), ("retry", retry)):
        await pool_of(queue).execute("TRUNCATE tasks CASCADE")
        [task_id] = await gateway.submit()
        await put(queue, task_id, status)
        code = 409 if expected == "conflict" else 200
        assert await steer(gateway, task_id, verb) == (code, expected), verb
        # Again: the second request finds what the first has brought about.
        if expected == "queued":
            assert await steer(gateway, task_id, verb) == (200, "unchanged")
            assert (await claim(queue)).ids == [task_id]


async def test_a_retried_task_has_fresh_attempts_and_its_history(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit({"type": "t", "max_attempts": 2})
    for _ in range(2):
        await pool_of(queue).execute("UPDATE tasks SET run_after = now()")
        batch = await claim(queue)
        await queue.claims.settle("lane", batch, outcomes_of(batch, "failed", error="broken"))
    assert (await queue.get(task_id)).status == "failed"
    assert await steer(gateway, task_id, "retry") == (200, "queued")
    task = await queue.get(task_id)
    assert (task.status, task.attempts, task.error, task.finished_at) == ("queued", 0, None, None)
    assert [attempt.cause for attempt in task.history] == ["failed", "failed"]
    stale = batch
    for status in ("retry", "failed"):
        await pool_of(queue).execute("UPDATE tasks SET run_after = now()")
        batch = await claim(queue)
        assert (
            await queue.claims.settle("lane", stale, outcomes_of(stale, "completed", result="1"))
        ).stale == [task_id]
        settled = await queue.claims.settle("lane", batch, outcomes_of(batch, "failed", error="broken"))
        assert settled.statuses == {task_id: status}
    assert len((await queue.get(task_id)).history) == 4


async def test_a_retried_tasks_key_may_be_taken(gateway: Gateway, queue: Queue) -> None:
    keyed = {"type": "t", "dedup_key": "k"}
    [first] = await gateway.submit(keyed)
    await put(queue, first, "failed")
    [second] = await gateway.submit(keyed)
    answer = await gateway.http.post(f"/api/tasks/{first}/retry")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:organism:conflict")
    assert "dedup_key k" in answer.json()["detail"]
    assert (await queue.get(first)).status == "failed"
    await put(queue, second, "failed")
    both = [(await queue.get(i)).id for i in (first, second)]
    done = await queue.operator.retry([*both, uuid4()])
    assert (done.retried, done.duplicates, len(done.unchanged)) == (both[:1], both[1:], 1)


async def test_a_retry_wakes_the_lanes(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit()
    await put(queue, task_id, "cancelled")
    async with Listener(queue.direct_dsn) as listener:
        wake = listener.event
        await asyncio.wait_for(wake.wait(), 10)
        wake.clear()
        await steer(gateway, task_id, "retry")
        await asyncio.wait_for(wake.wait(), 10)


# By filter


async def test_cancelling_by_filter_counts_first(gateway: Gateway, queue: Queue) -> None:
    await queue.submit([NewTask(type="other")])
    await queue.submit([NewTask(type="t") for _ in range(5)])
    await queue.operator.pause("type", "other")
    await claim(queue, limit=2)
    await queue.submit([NewTask(type="t", run_immediately=False)])
    answer = await gateway.http.post("/api/tasks/cancel", json={"type": "t"})
    matched = {"created": 1, "queued": 3, "running": 2}
    assert answer.json() == {
        "dry_run": True, "matched": matched, "cancelled": 0, "requested": 0, "complete": True,
        "undo": [],
    }  # fmt: skip
    assert (await queue.reader.counts())["cancelled"] == 0
    answer = await gateway.http.post("/api/tasks/cancel", json={"type": "t", "dry_run": False})
    assert answer.json() == {
        "dry_run": False, "matched": matched, "cancelled": 4, "requested": 2, "complete": True,
        "undo": [],
    }  # fmt: skip
    assert len(await queue.claims.cancel_requests("lane")) == 2
    counts = await queue.reader.counts()
    assert (counts["cancelled"], counts["queued"], counts["running"]) == (4, 1, 2)
    answer = await gateway.http.post("/api/tasks/cancel", json={"type": "t", "dry_run": False})
    assert (answer.json()["matched"], answer.json()["requested"]) == ({}, 0), "those have been told"


async def test_more_than_one_statement_cancels_are_cancelled(
    gateway: Gateway, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.blocks.queue.stores.operator.STEERED_AT_ONCE", 10)
    await queue.submit([NewTask(type="t") for _ in range(95)])
    monkeypatch.setattr("organism_flows.serve_apps.gateway.routes.task_actions.STEERED_AT_MOST", 50)
    answer = await gateway.http.post("/api/tasks/cancel", json={"status": ["queued"], "dry_run": False})
    assert (answer.json()["cancelled"], answer.json()["complete"]) == (50, False)
    answer = await gateway.http.post("/api/tasks/cancel", json={"status": ["queued"], "dry_run": False})
    assert (answer.json()["cancelled"], answer.json()["complete"]) == (45, True)
    assert (await queue.reader.counts())["queued"] == 0


@pytest.mark.parametrize(
    "body", [{}, {"dry_run": False}, {"status": []}, {"typ": "t"}, [], None, {"error": ""}]
)
async def test_cancelling_everything_by_mistake_is_refused(gateway: Gateway, queue: Queue, body: Any) -> None:
    await queue.submit([NewTask(type="t")])
    answer = await gateway.http.post("/api/tasks/cancel", json=body)
    assert answer.status_code == 422
    assert (await queue.reader.counts())["queued"] == 1


async def test_redriving_by_filter_counts_first_and_is_written_down(
    database: str, queue: Queue, tmp_path: Path
) -> None:
    tokens = token_file(tmp_path, operate="secret")
    async with running(database, gateway_tokens=tokens, token="secret") as gateway:
        await queue.submit([NewTask(type=t) for t in ("t", "t", "t", "other")])
        batch = await claim(queue)
        await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error="broken"))
        answer = (await gateway.http.post("/api/tasks/redrive", json={"type": "t", "limit": 2})).json()
        assert (answer["dry_run"], answer["found"], len(answer["sample"]), answer["audit"]) == (
            True,
            2,
            2,
            None,
        )
        assert (await queue.reader.counts())["failed"] == 4
        body = {"type": "t", "error": "%rok%", "limit": 2, "dry_run": False}
        answer = (await gateway.http.post("/api/tasks/redrive", json=body)).json()
        assert (answer["redriven"], answer["complete"]) == (2, True)
        counts = await queue.reader.counts()
        assert (counts["failed"], counts["queued"]) == (2, 2)
        [row] = await pool_of(queue).fetch("SELECT id, actor FROM task_audit")
        assert (str(row["id"]), row["actor"]) == (answer["audit"], "gateway: made for the tests")


async def test_more_than_one_request_redrives_are_redriven(
    gateway: Gateway, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.serve_apps.gateway.routes.task_actions.REDRIVEN_AT_MOST", 3)
    await queue.submit([NewTask(type="t") for _ in range(5)])
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error="broken"))
    for redriven, complete in ((3, False), (2, True)):
        answer = await gateway.http.post("/api/tasks/redrive", json={"type": "t", "dry_run": False})
        assert (answer.json()["redriven"], answer.json()["complete"]) == (redriven, complete)


@pytest.mark.parametrize(
    "body",
    [{}, {"cancelled": True, "dry_run": False}, {"typ": "t"}, {"limit": 0, "type": "t"}, {"error": "\\"}],
)
async def test_redriving_everything_by_mistake_is_refused(gateway: Gateway, queue: Queue, body: Any) -> None:
    await queue.submit([NewTask(type="t")])
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error="broken"))
    assert (await gateway.http.post("/api/tasks/redrive", json=body)).status_code == 422
    assert (await queue.reader.counts())["failed"] == 1


async def test_pausing_and_resuming(gateway: Gateway, queue: Queue) -> None:
    await queue.submit([NewTask(type="t"), NewTask(type="u", domain="d")])
    for kind, name in (("type", "t"), ("domain", "d")):
        for _ in range(2):
            answer = await gateway.http.post(
                "/api/pauses", json={"kind": kind, "name": name, "reason": "why"}
            )
            assert answer.status_code == 200
    paused = (await gateway.http.get("/api/pauses")).json()["pauses"]
    assert sorted((each["kind"], each["name"], each["reason"]) for each in paused) == [
        ("domain", "d", "why"), ("type", "t", "why"),
    ]  # fmt: skip
    assert (await claim(queue)).ids == []
    for resumed in (True, False):
        answer = await gateway.http.post("/api/pauses/resume", json={"kind": "type", "name": "t"})
        assert answer.json() == {"resumed": resumed}
    assert len((await claim(queue)).ids) == 1
    for wrong in ({"kind": "lane", "name": "t"}, {"kind": "type"}, {"kind": "type", "name": ""}):
        assert (await gateway.http.post("/api/pauses", json=wrong)).status_code == 422


async def test_failed_and_cancelled_tasks_of_a_filter_run_again(gateway: Gateway, queue: Queue) -> None:
    ids = await queue.submit([NewTask(type="t", dedup_key=key) for key in ("a", None, None)])
    await queue.operator.cancel(ids)
    await queue.submit([NewTask(type="t", dedup_key="a"), NewTask(type="other")])
    post = gateway.http.post
    counted = (await post("/api/tasks/retry", json={"type": "t"})).json()
    assert (counted["matched"], counted["retried"]) == ({"cancelled": 3}, 0)
    done = (await post("/api/tasks/retry", json={"type": "t", "dry_run": False})).json()
    assert (done["retried"], done["kept_out"], done["complete"]) == (2, 1, True)
    assert (await queue.reader.counts())["cancelled"] == 1
    for name in ("status", "ids"):
        assert (await post("/api/tasks/retry", json={name: []})).status_code == 422
    actions = (await gateway.http.get("/api/audit")).json()["entries"]
    assert [(row["action"], row["tasks"]) for row in actions] == [("retry", 2)]


async def test_a_cancel_is_undone_only_where_all_can_wait_again(
    gateway: Gateway, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.submit([NewTask(type="t")] * 3)
    await gateway.submit({"type": "new", "run_immediately": False}, {"type": "new"})
    monkeypatch.setattr("organism_flows.serve_apps.gateway.routes.task_actions.UNDONE_AT_MOST", 2)
    for type in ("t", "new"):
        done = await gateway.http.post("/api/tasks/cancel", json={"type": type, "dry_run": False})
        assert done.json()["undo"] == [], type


async def test_tasks_are_found_by_the_run_whose_lanes_hold_them(gateway: Gateway, queue: Queue) -> None:
    await queue.submit([NewTask(type="t")] * 3)
    for lane, run in (("one", "a"), ("two", "a"), ("three", "b")):
        await queue.leases.register(lane, run=run)
        await queue.claims.claim(lane, 1)
    for run, tasks in (("a", 2), ("b", 1), ("c", 0)):
        listed = (await gateway.http.get("/api/tasks", params={"run": run})).json()["tasks"]
        assert len(listed) == tasks, run
