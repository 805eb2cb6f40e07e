"""Waiting for tasks: by long poll, by server-sent events, and a thousand at once."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from organism_flows.blocks.queue import NewTask, Queue, Status, TaskState
from organism_flows.blocks.task_report import Progress, TaskReport
from organism_flows.serve_apps.gateway.shared_poll import POLL_PAUSE_S
from organism_flows.serve_apps.gateway.task_watcher import TaskWatcher
from tests.support.gateway.running import Gateway
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio
TIMEOUT = 60


async def complete(queue: Queue, limit: int = 1000) -> set[str]:
    batch = await claim(queue, limit=limit)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result='{"done": true}'))
    return {*batch.ids}


async def test_a_wait_ends_with_its_task(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit()
    waiting = asyncio.create_task(gateway.http.get(f"/api/tasks/{task_id}/wait?timeout=50"))
    await until(lambda: gateway.parts.waiting.waiters == 1)
    assert not waiting.done()
    await complete(queue)
    answer = (await asyncio.wait_for(waiting, TIMEOUT)).json()
    assert (answer["status"], answer["finished"], answer["result"]) == ("completed", True, {"done": True})
    assert gateway.parts.waiting.waiters == 0
    # One that has ended is not waited for.
    started = time.monotonic()
    assert (await gateway.http.get(f"/api/tasks/{task_id}/wait?timeout=50")).json()["finished"]
    assert time.monotonic() - started < 20


async def test_a_wait_whose_time_is_up_says_so(gateway: Gateway) -> None:
    [task_id] = await gateway.submit()
    answer = (await gateway.http.get(f"/api/tasks/{task_id}/wait?timeout=0.1")).json()
    assert (answer["status"], answer["finished"]) == ("queued", False)
    assert (await gateway.http.get(f"/api/tasks/{task_id}/wait?timeout=0")).status_code == 200
    for timeout in ("nan", "inf", "-1", "301", "soon", "1e400"):
        answer = await gateway.http.get(f"/api/tasks/{task_id}/wait?timeout={timeout}")
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "query.timeout"), timeout


async def test_a_waiter_that_leaves_is_forgotten(gateway: Gateway) -> None:
    [task_id] = await gateway.submit()
    for path in ("wait", "events"):
        waiting = asyncio.create_task(gateway.http.get(f"/api/tasks/{task_id}/{path}"))
        await until(lambda: gateway.parts.waiting.waiters == 1)
        waiting.cancel()
        await until(lambda: gateway.parts.waiting.waiters == 0)


async def test_a_task_deleted_under_a_waiter_is_not_found(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit()
    waiting = asyncio.create_task(gateway.http.get(f"/api/tasks/{task_id}/wait?timeout=50"))
    await until(lambda: gateway.parts.waiting.waiters == 1)
    await pool_of(queue).execute("DELETE FROM tasks")
    assert (await asyncio.wait_for(waiting, TIMEOUT)).status_code == 404


async def sent(gateway: Gateway, task_id: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    async with gateway.http.stream("GET", f"/api/tasks/{task_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


async def test_events_tell_each_change_until_the_end(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit({"type": "t", "max_attempts": 2})
    seen = []
    async for name, state in sent(gateway, task_id):
        assert name == "status"
        seen.append((state["status"], state["attempts"], state["finished"]))
        if state["status"] in ("queued", "retry"):
            await pool_of(queue).execute("UPDATE tasks SET run_after = now()")
            batch = await claim(queue)
        else:
            await queue.claims.settle("lane", batch, outcomes_of(batch, "failed", error="x"))
    assert seen == [
        ("queued", 0, False), ("running", 1, False), ("retry", 1, False), ("running", 2, False),
        ("failed", 2, True),
    ]  # fmt: skip
    assert [state["status"] async for _, state in sent(gateway, task_id)] == ["failed"]


async def test_events_tell_a_cancel_request_and_a_deletion(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit()
    await claim(queue)
    seen = []
    async for name, state in sent(gateway, task_id):
        seen.append((name, state.get("cancel_requested")))
        if len(seen) == 1:
            await gateway.http.post(f"/api/tasks/{task_id}/cancel")
        else:
            await pool_of(queue).execute("DELETE FROM tasks")
    assert seen == [("status", False), ("status", True), ("gone", None)]


async def test_events_tell_the_progress_that_a_handler_reports(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit()
    batch = await claim(queue)
    seen = []
    async for _, state in sent(gateway, task_id):
        seen.append((state["fraction"], state["note"]))
        if len(seen) < 3:
            progress = Progress(len(seen) / 4, f"part {len(seen)}")
            await queue.reports.record(batch, [TaskReport(progress=progress)])
        else:
            await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
        if state["finished"]:
            break
    assert seen[:3] == [(None, None), (0.25, "part 1"), (0.5, "part 2")]
    status = (await gateway.http.get(f"/api/tasks/{task_id}/status")).json()
    assert (status["fraction"], status["note"]) == (0.5, "part 2")


async def test_a_thousand_polls_and_streams_share_a_few_connections(gateway: Gateway, queue: Queue) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    number = 1000
    ids = await gateway.submit(*({"type": "t"} for _ in range(number)))
    host, _, port = gateway.url.removeprefix("http://").rpartition(":")

    async def wait(task_id: str, path: str) -> bytes:
        # By hand: a thousand connections of httpx are half a minute of processor time.
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(
                f"GET /api/tasks/{task_id}/{path} HTTP/1.1\r\n"
                f"Host: {host}\r\nConnection: close\r\n\r\n".encode()
            )
            return await reader.read()
        finally:
            writer.close()

    paths = ("wait?timeout=300", "events")
    waiters = {i: asyncio.create_task(wait(i, paths[n % 2])) for n, i in enumerate(ids)}
    watcher = await asyncpg.connect(queue.dsn)
    try:
        await until(lambda: gateway.parts.waiting.waiters == number, patience=TIMEOUT)
        polls = gateway.parts.waiting.polls
        await until(lambda: gateway.parts.waiting.polls > polls + 10)
        connections = await watcher.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'organism-%'"
        )
        # Four of them, or as many more as exports may take, and the one that listens.
        assert connections <= 9
        started = time.monotonic()
        ended = await complete(queue, limit=number // 2)
        await asyncio.wait_for(asyncio.gather(*(waiters[i] for i in ended)), TIMEOUT)
        print(f"{connections} connections; {len(ended)} told {time.monotonic() - started:.2f} s after")
        assert {i for i, waiter in waiters.items() if waiter.done()} == ended, "each by its own task"
        await complete(queue, limit=number)
        answers = await asyncio.wait_for(asyncio.gather(*waiters.values()), TIMEOUT)
        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 200")
            assert b'"finished":true' in answer
        assert sum(b"event: status" in answer for answer in answers) == number // 2
    finally:
        await watcher.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert gateway.parts.waiting.waiters == 0


# The poll itself


def state(task_id: UUID, status: Status) -> TaskState:
    return TaskState(task_id, status, 0, False, None)


async def test_who_comes_while_a_poll_is_read_is_told_by_the_next(queue: Queue) -> None:
    """Else somebody who retries a task and waits for it would be told of its older end."""
    task_id, asked, answers = uuid4(), asyncio.Event(), asyncio.Queue[Status]()

    async def states(ids: object) -> dict[UUID, TaskState]:
        asked.set()
        return {task_id: state(task_id, await answers.get())}

    async with TaskWatcher(states) as waiting:
        early, late = waiting.changes(task_id), waiting.changes(task_id)
        first = asyncio.ensure_future(anext(early))
        await asyncio.wait_for(asked.wait(), TIMEOUT)
        second = asyncio.ensure_future(anext(late))
        await asyncio.sleep(0)
        answers.put_nowait("failed")
        assert await asyncio.wait_for(first, TIMEOUT) == state(task_id, "failed")
        answers.put_nowait("queued")
        assert await asyncio.wait_for(second, TIMEOUT) == state(task_id, "queued")


async def test_an_outage_is_waited_out(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="t")])
    failures = [ConnectionResetError(), asyncpg.InterfaceError("closed"), RuntimeError("a defect")]

    async def states(ids: Sequence[UUID]) -> dict[UUID, TaskState]:
        if failures:
            raise failures.pop()
        return await queue.reader.states(ids)

    async with TaskWatcher(states) as waiting:
        found = await asyncio.wait_for(anext(waiting.changes(task_id)), TIMEOUT)
    assert found is not None
    assert found.status == "queued"


async def test_while_nobody_waits_nothing_is_asked() -> None:
    asked = 0

    async def states(ids: object) -> dict[UUID, TaskState]:
        nonlocal asked
        asked += 1
        return {}

    async with TaskWatcher(states) as waiting:
        for _ in range(2):
            before = asked
            assert [found async for found in waiting.changes(uuid4())] == [None]
            assert asked == before + 1
            await asyncio.sleep(10 * POLL_PAUSE_S)
            assert asked == before + 1
