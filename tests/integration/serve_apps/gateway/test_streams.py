"""Reading what tasks emit: server-sent events, and the clients that follow them through outages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from organism_flows.blocks.client.async_client import Client, SyncClient
from organism_flows.blocks.errors import GatewayError
from organism_flows.blocks.queue import Batch, Queue
from organism_flows.blocks.queue.models.streams import StreamBegin, StreamChunk
from organism_flows.blocks.task_report import Chunks, TaskReport
from tests.support.gateway.running import Gateway
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio
TIMEOUT = 60


async def emit(queue: Queue, batch: Batch, *texts: str, last: int, position: int = 0) -> None:
    """Emit chunks as a lane writes them."""
    chunks = Chunks(texts, last=last)
    await queue.reports.record(batch, [TaskReport(position, chunks=chunks)])


async def end(queue: Queue, batch: Batch, cause: Any = "completed") -> None:
    await queue.claims.settle("lane", batch, outcomes_of(batch, cause, result="1"))


async def events(gateway: Gateway, task_id: str, after: str | None = None) -> list[list[str]]:
    """The events up to the end of the answer, each a list of its lines."""
    headers = {"Last-Event-ID": after} if after else {}
    answer = await gateway.http.get(f"/api/tasks/{task_id}/stream", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [event.split("\n") for event in answer.text.split("\n\n") if event]


def names(found: list[list[str]]) -> list[str]:
    return [event[0].removeprefix("event: ") for event in found]


async def test_a_stream_is_sent_until_the_task_has_ended(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit()
    batch = await claim(queue)
    [mine] = batch.claims
    await emit(queue, batch, '"one"', last=1)
    reading = asyncio.create_task(events(gateway, task_id))
    await until(lambda: gateway.parts.streams.waiters)
    await emit(queue, batch, '{"a": "line\\nbreak"}', last=2)
    await end(queue, batch)
    found = await asyncio.wait_for(reading, TIMEOUT)
    assert found[0] == ["event: begin", f'data: {{"claim":{mine},"attempt":1}}', f"id: {mine}-0"]
    assert found[1] == ["event: chunk", 'data: "one"', f"id: {mine}-1"]
    assert found[2] == ["event: chunk", 'data: {"a": "line\\nbreak"}', f"id: {mine}-2"]
    assert names(found[3:]) == ["end"]
    assert '"status":"completed","finished":true' in found[3][1]
    assert found[3][2] == f"id: {mine}-2"
    assert gateway.parts.streams.waiters == 0


async def test_a_reader_goes_on_after_the_last_event_that_it_has_seen(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit()
    batch = await claim(queue)
    [mine] = batch.claims
    await emit(queue, batch, "1", "2", "3", last=3)
    await end(queue, batch)
    assert names(await events(gateway, task_id, f"{mine}-1")) == ["chunk", "chunk", "end"]
    assert names(await events(gateway, task_id, f"{mine}-3")) == ["end"]
    assert names(await events(gateway, task_id, f"{mine - 1}-3")) == ["begin", *["chunk"] * 3, "end"]
    for wrong in ("x", "1", "1-", "1-2-3", "-1-0", "9" * 30 + "-1"):
        answer = await gateway.http.get(f"/api/tasks/{task_id}/stream", headers={"Last-Event-ID": wrong})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "header.last-event-id")


async def test_a_task_that_is_deleted_or_never_was(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit()
    reading = asyncio.create_task(events(gateway, task_id))
    await until(lambda: gateway.parts.streams.waiters)
    await pool_of(queue).execute("DELETE FROM tasks")
    assert names(await asyncio.wait_for(reading, TIMEOUT)) == ["gone"]
    assert (await gateway.http.get(f"/api/tasks/{task_id}/stream")).status_code == 404


async def test_readers_share_one_statement_and_leave_nothing_behind(gateway: Gateway, queue: Queue) -> None:
    ids = await gateway.submit({"type": "t"}, {"type": "t"})
    batch = await claim(queue)
    readers = [asyncio.create_task(events(gateway, task_id)) for task_id in ids for _ in range(10)]
    streams = gateway.parts.streams
    # All have got their first event and wait at the same two places.
    await until(lambda: streams.waiters == 20 and len(streams._watchers) == 2)
    readers[0].cancel()
    await until(lambda: streams.waiters == 19)
    for position in (0, 1):
        await emit(queue, batch, "1", last=1, position=position)
    await end(queue, batch)
    for found in await asyncio.wait_for(asyncio.gather(*readers[1:]), TIMEOUT):
        assert names(found) == ["begin", "chunk", "end"]
    await until(lambda: not streams.waiters)
    polls = streams.polls
    await gateway.http.get("/healthz")
    assert streams.polls == polls, "nobody reads, so nothing is asked"


# The clients


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[Client]:
    async with Client(gateway.url) as client:
        yield client


def shown(event: StreamBegin | StreamChunk) -> Any:
    return f"attempt {event.attempt}" if isinstance(event, StreamBegin) else event.value


async def test_a_client_sees_each_attempt_begin(client: Client, queue: Queue) -> None:
    task = await client.submit("t")
    batch = await claim(queue)
    await emit(queue, batch, '"a\u2028b"', last=1)
    seen = []
    async for event in task.stream(timeout=TIMEOUT):
        seen.append(shown(event))
        if len(seen) == 2:
            await end(queue, batch, "failed")
            await pool_of(queue).execute("UPDATE tasks SET run_after = now()")
            batch = await claim(queue)
        elif len(seen) == 3:
            await emit(queue, batch, '{"b": 1}', last=1)
            await end(queue, batch)
    assert seen == ["attempt 1", "a\u2028b", "attempt 2", {"b": 1}]


class CutOff(httpx.AsyncHTTPTransport):
    """A network on which every answer breaks off after so many bytes, most often within an event."""

    answers = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        self.answers += 1

        async def cut() -> AsyncIterator[bytes]:
            data = b""
            async for piece in answer.aiter_raw():
                data += piece
            yield data[:230]
            if len(data) > 230:
                raise httpx.ReadError("cut off")

        return httpx.Response(answer.status_code, headers=answer.headers, content=cut())


async def test_a_client_that_is_cut_off_again_and_again_sees_each_chunk_once(
    gateway: Gateway, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("organism_flows.blocks.client.connection.OUTAGE_PAUSE_S", 0.0)
    [task_id] = await gateway.submit()
    batch = await claim(queue)
    for number in range(1, 41, 4):
        await emit(queue, batch, *(str(n) for n in range(number, number + 4)), last=number + 3)
    await end(queue, batch)
    transport = CutOff()
    async with Client(gateway.url, transport=transport) as client:
        seen = [shown(event) async for event in client.stream(task_id, timeout=TIMEOUT)]
    assert seen == ["attempt 1", *range(1, 41)]
    assert transport.answers > 3

    def read() -> list[Any]:
        with SyncClient(gateway.url) as client:
            return [shown(event) for event in client.task(UUID(task_id)).stream(timeout=TIMEOUT)]

    assert await asyncio.to_thread(read) == seen


async def test_the_time_of_a_client_ends(client: Client) -> None:
    task = await client.submit("t")
    with pytest.raises(TimeoutError, match=r"has not ended after 0\.1 s"):
        async for _ in task.stream(timeout=0.1):
            pass


async def test_a_client_says_that_the_task_is_gone(client: Client, queue: Queue) -> None:
    task = await client.submit("t")
    await claim(queue)
    stream = task.stream(timeout=TIMEOUT)
    assert isinstance(await anext(stream), StreamBegin)
    await pool_of(queue).execute("DELETE FROM tasks")
    with pytest.raises(GatewayError, match=r"there is no task .* any more"):
        await anext(stream)
