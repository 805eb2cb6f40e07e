"""The client of the gateway, on one that runs."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import ValidationError

from organism_flows.blocks.client.async_client import (
    Client,
    SyncClient,
    SyncTaskHandle,
    TaskHandle,
)
from organism_flows.blocks.client.messages import WaitResult
from organism_flows.blocks.errors import ConfigurationError, GatewayError, GatewayUnavailable, TaskEnded
from organism_flows.blocks.local_stack.access_token import make_token
from organism_flows.blocks.local_stack.stack_state import STATE_FILE, StackState
from organism_flows.blocks.queue import Limit, NewTask, Queue, TaskFilter, TypePolicy
from organism_flows.blocks.queue.wire import Cause
from organism_flows.blocks.settings import Settings
from tests.support.gateway.running import running, token_file
from tests.support.proxy import proxied
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio
TIMEOUT = 60


@pytest.fixture
async def client(database: str) -> AsyncIterator[Client]:
    async with running(database) as gateway, Client(gateway.url) as client:
        yield client


UNUSUAL = "line\u2028next\u0085last"
"""Text with characters that some count as line breaks. JSON does not."""


async def settle(queue: Queue, cause: Cause, **columns: Any) -> None:
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, cause, **columns))


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
    assert isinstance(ended.value.outcome, WaitResult)


async def test_a_wait_longer_than_one_request(
    client: Client, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.blocks.client.requests.WAIT_S", 0.2)
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
    cancelled = await client.cancel_all(TaskFilter(domain="d"), dry_run=False)
    assert (cancelled.cancelled, set(cancelled.undo)) == (7, {task.id for task in many})
    assert {line.status async for line in client.tasks(TaskFilter(status=["cancelled"]))} == {"cancelled"}
    assert (await client.retry_all(ids=cancelled.undo[:3], dry_run=False)).retried == 3
    assert (await client.retry_all(TaskFilter(domain="d"))).matched == {"cancelled": 4}
    assert (await client.retry_all(TaskFilter(domain="d"), dry_run=False)).retried == 4


async def test_limits(client: Client) -> None:
    limit = Limit(name="customers", kind="running", types=["t"], by_key=True, amount=2)
    assert [one.name for one in (await client.set_limit(limit)).limits] == ["customers"]
    assert (await client.limits()).limits[0].amount == 2
    assert await client.remove_limit("customers")
    assert not await client.remove_limit("customers")


async def test_how_everything_stands(client: Client, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    await client.submit_all([NewTask(type="t", domain="d"), NewTask(type="t"), NewTask(type="waits")])
    await settle(queue, "rejected", error="row 17 is wrong")
    since = datetime.now(UTC) - timedelta(hours=1)
    [group, *_] = (await client.failures(type="t", since=since)).groups
    assert (group.tasks, group.error) == (2, "row ⟨n⟩ is wrong")
    assert not (await client.failures(type="t", domain="other")).groups
    overview = await client.overview()
    assert overview.queue is not None
    assert overview.queue.dead_last_hour == 3
    policy = await client.set_policy(TypePolicy(type="t", max_attempts=2))
    assert (policy.max_attempts, policy.timeout_s) == (2, None)
    assert [one.policy for one in await client.types() if one.name == "t"] == [policy]
    monkeypatch.setattr("organism_flows.blocks.client.requests.PAGE_LIMIT", 2)
    for name in ("a", "b", "c"):
        await client.pause("type", name)
    rows = [row async for row in client.audit("pause")]
    assert [row.details["name"] for row in rows] == ["c", "b", "a"]


async def test_pages_are_followed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("organism_flows.blocks.client.requests.PAGE_LIMIT", 3)
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
    monkeypatch.setattr("organism_flows.blocks.client.connection.OUTAGE_PAUSE_S", 0.1)
    monkeypatch.setattr("organism_flows.blocks.client.requests.WAIT_S", 0.5)
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


async def test_many_tasks_are_waited_for_in_one_request(database: str, queue: Queue) -> None:
    asked: list[str] = []

    async def count(request: httpx.Request) -> None:
        asked.append(f"{request.method} {request.url.path}")

    async with running(database) as gateway, Client(gateway.url) as client:
        client._http().event_hooks["request"].append(count)
        tasks = await client.submit_all([NewTask(type="t", params={"n": n}) for n in range(1_000)])
        asked.clear()
        ended: set[UUID] = set()

        async def collect() -> list[WaitResult]:
            found = []
            async for outcome in client.wait_many([task.id for task in tasks], timeout=20):
                ended.add(outcome.id)
                found.append(outcome)
            return found

        collecting = asyncio.create_task(collect())
        await until(lambda: gateway.parts.waiting.waiters == 1_000)
        batch = await claim(queue, limit=400)
        await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
        await until(lambda: ended == set(map(UUID, batch.ids)))
        assert not collecting.done(), "they come as they end"
        await gateway.http.post("/api/tasks/cancel", json={"type": "t", "dry_run": False})
        found = await asyncio.wait_for(collecting, TIMEOUT)
        assert {outcome.id for outcome in found} == {task.id for task in tasks}
        assert len(found) == 1_000
        assert [outcome.result for outcome in found if outcome.status == "completed"] == [1] * 400
        assert asked == ["POST /api/tasks/wait"]
        await until(lambda: gateway.parts.waiting.waiters == 0)


async def test_a_wait_for_many_ends_with_the_time_and_names_the_missing(client: Client, queue: Queue) -> None:
    first = await client.submit("t")
    await settle(queue, "completed", result=f'["{UNUSUAL}"]')
    second = await client.submit("t")
    found = [outcome async for outcome in client.wait_many([second.id, first.id, first.id], timeout=0.3)]
    assert [(o.id, o.finished, o.result) for o in found] == [
        (first.id, True, [UNUSUAL]),
        (second.id, False, None),
    ]
    assert [o async for o in client.wait_many([])] == []
    with pytest.raises(GatewayError, match="no task"):
        [o async for o in client.wait_many([uuid4()], timeout=5)]


async def test_a_wait_for_many_goes_through_an_outage(
    database: str, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.blocks.client.connection.OUTAGE_PAUSE_S", 0.1)
    monkeypatch.setattr("organism_flows.blocks.client.requests.WAIT_S", 0.5)
    async with proxied(database) as proxy, running(proxy.dsn) as gateway, Client(gateway.url) as client:
        tasks = await client.submit_all([NewTask(type="t")] * 3)

        async def collect() -> set[UUID]:
            return {o.id async for o in client.wait_many([t.id for t in tasks], timeout=60)}

        collecting = asyncio.create_task(collect())
        await until(lambda: gateway.parts.waiting.waiters == 3)
        proxy.refuse()
        await settle(queue, "completed", result="1")
        await asyncio.sleep(0.6)  # a request is over meanwhile
        proxy.accept()
        assert await asyncio.wait_for(collecting, TIMEOUT) == {task.id for task in tasks}


async def test_waits_of_one_token_are_bounded(database: str, tmp_path: Any) -> None:
    tokens = token_file(tmp_path, operate="one", read="two")
    async with (
        running(database, gateway_tokens=tokens, gateway_waits=2) as gateway,
        Client(gateway.url, token="one") as one,
        Client(gateway.url, token="two") as two,
    ):
        task = await one.submit("t")
        waits = [asyncio.create_task(one.wait(task.id, 60)) for _ in range(2)]
        await until(lambda: gateway.parts.waiting.waiters == 2)
        for refused in (one.wait(task.id, 1), anext(aiter(one.wait_many([task.id], 1)))):
            with pytest.raises(GatewayError, match="wait already") as error:
                await refused
            assert error.value.problem.status == 429
        head = {"authorization": "Bearer one"}
        assert (await gateway.http.get(f"/api/tasks/{task.id}/events", headers=head)).status_code == 429
        assert not (await two.wait(task.id, 0.1)).finished
        await task.cancel()
        assert {(await wait).status for wait in waits} == {"cancelled"}
        assert (await one.wait(task.id, 1)).finished, "their places are free again"


def test_one_client_in_many_event_loops(databases: Any) -> None:
    dsn = asyncio.run(databases.create())

    async def use() -> None:
        async with running(dsn) as gateway:
            client = Client(gateway.url)

            def request() -> UUID:
                # As Flask and Django run an async view: a loop of its own for each request.
                async def view() -> UUID:
                    task = await client.submit("t")
                    assert (await task.status()).status == "queued"
                    return task.id

                return asyncio.run(view())

            ids = [await asyncio.to_thread(request) for _ in range(3)]
            ids += await asyncio.gather(*(asyncio.to_thread(request) for _ in range(3)))
            assert len(set(ids)) == 6
            assert (await client.get(ids[0])).status == "queued"
            assert len(client._clients) == 1, "those of loops that ended are let go"
            await client.aclose()

    asyncio.run(use())


async def test_a_client_without_an_event_loop(database: str, queue: Queue) -> None:
    [done] = await queue.submit([NewTask(type="t")])
    await settle(queue, "completed", result=f'"{UNUSUAL}"')

    def use(url: str) -> None:
        with SyncClient(url) as client:
            first = client.submit("t", {"n": 1}, dedup_key="k")
            assert client.submit("t", dedup_key="k") == SyncTaskHandle(client, first.id, deduplicated=True)
            with pytest.raises(TimeoutError):
                first.result(timeout=0.1)
            assert first.why().reason
            assert first.cancel().outcome == "cancelled"
            with pytest.raises(TaskEnded):
                first.result()
            many = client.submit_all([NewTask(type="many")] * 20)
            assert [line.id for line in client.tasks(TaskFilter(type="many"))] == [t.id for t in many][::-1]
            assert client.cancel_all(TaskFilter(type="many"), dry_run=False).cancelled == 20
            assert client.retry_all(TaskFilter(type="many")).matched == {"cancelled": 20}
            assert (
                client.set_limit(Limit(name="l", kind="running", amount=1)).limits == client.limits().limits
            )
            assert client.remove_limit("l")
            assert {o.status for o in client.wait_many(t.id for t in many)} == {"cancelled"}
            assert [o.result for o in client.wait_many([done])] == [UNUSUAL]
            assert client.pause("type", "t")[0].name == "t"
            assert client.resume("type", "t")
            assert [row.action for row in client.audit()][:2] == ["resume", "pause"]
            assert client.overview().queue is not None
            assert client.failures().groups == []
            client.set_policy(TypePolicy(type="t", max_attempts=3))
            assert "t" in {one.name for one in client.types()}
            with pytest.raises(GatewayError, match="not a task id"):
                client.get("nonsense")
        with SyncClient("http://127.0.0.1:1") as nobody, pytest.raises(GatewayUnavailable):
            nobody.submit("t")

    async with running(database) as gateway:
        await asyncio.to_thread(use, gateway.url)


def test_both_clients_offer_the_same() -> None:
    def offered(of: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in vars(of).items()
            if not name.startswith("_") and callable(method)
        }

    ours, theirs = offered(Client), offered(SyncClient)
    ours["close"] = ours.pop("aclose")
    assert ours == theirs
    assert offered(TaskHandle) == offered(SyncTaskHandle)


async def test_a_client_finds_the_stack_of_its_home_and_its_token(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORGANISM_HOME", str(tmp_path))
    for name in ("ORGANISM_GATEWAY_URL", "ORGANISM_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for kind in (Client, SyncClient):
        with pytest.raises(ConfigurationError, match="no gateway is known"):
            kind()
    make_token(Settings(home=tmp_path))
    async with running(database, gateway_open=False, home=tmp_path) as gateway:
        state = StackState(
            home=tmp_path, stack_id="s", dsn="", ray_address="", ray_token_path=tmp_path,
            ray_dashboard_url="", prefect_api_url="", prefect_ui_url="", organism_url="",
            gateway_url=gateway.url, processes={},
        )  # fmt: skip
        (tmp_path / STATE_FILE).write_text(state.model_dump_json())
        async with Client() as client:
            task = await client.submit("t")
        assert (await asyncio.to_thread(lambda: SyncClient().get(task.id))).status == "queued"
        # The token is not for whatever URL is given.
        async with Client(gateway.url) as client:
            with pytest.raises(GatewayError, match="no token"):
                await client.get(task.id)
        (tmp_path / STATE_FILE).unlink()
        monkeypatch.setenv("ORGANISM_GATEWAY_URL", gateway.url)
        async with Client() as client:
            assert (await client.get(task.id)).id == task.id
