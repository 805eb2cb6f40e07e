"""The client of the gateway, on one that runs."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from blocks.client import Client, GatewayError, GatewayUnavailable, TaskEnded
from blocks.gateway_api import Waited
from blocks.queue import NewTask, Queue, TaskFilter
from tests.blocks.queue.helpers import claim, outcomes_of
from tests.proxy import proxied
from tests.serve_apps.gateway.running import running, token_file
from tests.stack import until

pytestmark = pytest.mark.anyio
TIMEOUT = 60


@pytest.fixture
async def client(database: str) -> AsyncIterator[Client]:
    async with running(database) as gateway, Client(gateway.url) as client:
        yield client


async def settle(queue: Queue, cause: str, **columns: Any) -> None:
    batch = await claim(queue)
    await queue.settle("lane", batch, outcomes_of(batch, cause, **columns))


async def test_submit_and_wait_for_the_result(client: Client, queue: Queue) -> None:
    task = await client.submit("echo", {"n": 2**70}, priority=3)
    assert (await client.get(str(task.id)[:-1])).params == {"n": 2**70}
    result = asyncio.create_task(task.result(timeout=50))
    await settle(queue, "completed", result=str(2**80))
    assert await asyncio.wait_for(result, TIMEOUT) == 2**80
    assert (await task.status()).finished
    assert (await task.why()).reason == "completed"


async def test_a_result_that_never_comes(client: Client, queue: Queue) -> None:
    task = await client.submit("echo")
    with pytest.raises(TimeoutError, match="is queued after"):
        await task.result(timeout=0.1)
    await settle(queue, "rejected", error="no such column")
    with pytest.raises(TaskEnded, match="is failed: no such column") as ended:
        await task.result(timeout=10)
    assert pickle.loads(pickle.dumps(ended.value)).outcome == ended.value.outcome
    assert isinstance(ended.value.outcome, Waited)


async def test_a_wait_longer_than_one_request(
    client: Client, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks.client.WAIT_S", 0.2)
    task = await client.submit("echo")
    result = asyncio.create_task(task.result())
    await asyncio.sleep(0.5)
    assert not result.done()
    await settle(queue, "completed", result="1")
    assert await asyncio.wait_for(result, TIMEOUT) == 1


async def test_steering(client: Client) -> None:
    first = await client.submit("t", dedup_key="k")
    second = await client.submit("t", dedup_key="k")
    assert (second.id, second.deduplicated, first.deduplicated) == (first.id, True, False)
    assert (await first.cancel()).outcome == "cancelled"
    assert (await client.retry(first.id)).outcome == "queued"
    later = await client.submit("t", run_immediately=False)
    assert (await client.run(later.id)).outcome == "queued"
    many = await client.submit_all([NewTask(type="many", domain="d")] * 7)
    assert [line.id async for line in client.tasks(TaskFilter(type="many"))] == [t.id for t in many][::-1]
    assert (await client.cancel_all(TaskFilter(domain="d"))).matched == {"queued": 7}
    assert (await client.cancel_all(TaskFilter(domain="d"), dry_run=False)).cancelled == 7
    assert {line.status async for line in client.tasks(TaskFilter(status=["cancelled"]))} == {"cancelled"}


async def test_pages_are_followed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocks.client.PAGE_LIMIT", 3)
    many = await client.submit_all([NewTask(type="t")] * 10)
    assert [line.id async for line in client.tasks()] == [t.id for t in many][::-1]


async def test_refusals(client: Client) -> None:
    with pytest.raises(ValidationError):
        await client.submit("t", {"n": float("nan")})
    with pytest.raises(GatewayError, match="not a task id") as refused:
        await client.get("nonsense")
    assert refused.value.problem.status == 422
    assert pickle.loads(pickle.dumps(refused.value)).problem == refused.value.problem


async def test_a_token(database: str, tmp_path: Any) -> None:
    tokens = token_file(tmp_path, submit="s3cret")
    async with running(database, gateway_tokens=tokens) as gateway:
        async with Client(gateway.url, token="s3cret") as client:
            task = await client.submit("t")
            with pytest.raises(GatewayError, match="operate") as refused:
                await task.cancel()
            assert refused.value.problem.status == 403
        async with Client(gateway.url) as client:
            with pytest.raises(GatewayError, match="no token"):
                await client.get(task.id)


async def test_a_result_is_waited_for_through_an_outage(
    database: str, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks.client.OUTAGE_PAUSE_S", 0.1)
    monkeypatch.setattr("blocks.client.WAIT_S", 0.5)
    async with proxied(database) as proxy, running(proxy.dsn) as gateway, Client(gateway.url) as client:
        task = await client.submit("t")
        result = asyncio.create_task(task.result(timeout=60))
        proxy.refuse()
        with pytest.raises(GatewayUnavailable):
            await client.submit("t")
        with pytest.raises(GatewayUnavailable):
            await client.wait(task.id, timeout=0)
        await settle(queue, "completed", result="1")
        proxy.accept()
        assert await asyncio.wait_for(result, TIMEOUT) == 1
        await until(lambda: result.done())


async def test_no_gateway_at_all() -> None:
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(GatewayUnavailable, match="cannot reach the gateway"):
            await client.submit("t")


async def test_an_answer_of_a_proxy_is_not_taken_for_the_gateways() -> None:
    for status, kind in ((403, GatewayError), (502, GatewayUnavailable)):
        transport = httpx.MockTransport(lambda _, status=status: httpx.Response(status, text="<html>"))
        async with Client("http://gateway", transport=transport) as client:
            with pytest.raises(kind, match=str(status)):
                await client.submit("t")
