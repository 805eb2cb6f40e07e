"""Tasks exported over HTTP: whole whatever the rows, in bounded memory, and ended when nobody reads."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pyarrow.parquet as pq
import pytest

from organism_flows.blocks.client.async_client import Client, SyncClient
from organism_flows.blocks.errors import GatewayError, GatewayUnavailable
from organism_flows.blocks.queue import Queue, TaskFilter
from organism_flows.blocks.queue.db.statements import statement
from tests.support.gateway.running import Gateway, running, token_file
from tests.support.proxy import proxied
from tests.support.queue.hostile_rows import JSON, STATUSES, TYPES, WORST, insert, take_any_row
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio
TIMEOUT = 60


def rows_of(format: str, content: bytes) -> list[dict[str, Any]]:
    if format == "parquet":
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
        return rows
    if format == "csv":
        return [*csv.DictReader(io.StringIO(content.decode(), newline=""))]
    return [json.loads(line) for line in content.splitlines()]


async def exported(gateway: Gateway, **query: Any) -> bytes:
    answer = await gateway.http.get("/api/tasks/export", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"].startswith("attachment")
    return answer.content


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
async def test_every_format_holds_every_task_that_fits(gateway: Gateway, format: str) -> None:
    ids = await gateway.submit(*({"type": "a", "params": {"n": n, "text": 'é,"\r\n'}} for n in range(7)))
    await gateway.submit({"type": "b"})
    found = rows_of(format, await exported(gateway, format=format, type="a"))
    assert [row["id"] for row in found] == sorted(ids, reverse=True)
    params = [row["params"] if format == "jsonl" else json.loads(row["params"]) for row in found]
    assert [each["n"] for each in params] == [*range(6, -1, -1)]
    assert rows_of(format, await exported(gateway, format=format, type="none")) == []
    chosen = {"status": ["queued", "failed"], "created_since": "2000-01-01T00:00:00Z"}
    assert len(rows_of(format, await exported(gateway, format=format, **chosen))) == 8


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
async def test_no_row_stops_an_export(gateway: Gateway, database: str, format: str) -> None:
    connection = await asyncpg.connect(database)
    await take_any_row(connection)
    rows = [
        *({**WORST, "status": status} for status in STATUSES),
        *({**WORST, "params": text, "result": text, "status": "completed"} for text in JSON),
        *({**WORST, "type": type, "status": "retry"} for type in TYPES),
    ]
    ids = {str(await insert(connection, row)) for row in rows}
    await connection.close()
    content = await exported(gateway, format=format)
    if format == "jsonl":
        # The standard library reads neither such nesting nor such numbers.
        assert content.count(b"\n") == len(ids)
        assert all(task.encode() in content for task in ids)
    else:
        csv.field_size_limit(10_000_000)
        assert {row["id"] for row in rows_of(format, content)} == ids


async def test_what_is_asked_wrongly_is_named(gateway: Gateway) -> None:
    for query in ({"format": "xml"}, {"status": "done"}, {"limit": "5"}):
        answer = await gateway.http.get("/api/tasks/export", params=query)
        assert answer.status_code == 422
        assert f"query.{next(iter(query))}" in answer.json()["detail"]


async def test_both_clients_read_it(gateway: Gateway) -> None:
    ids = await gateway.submit({"type": "a"}, {"type": "b"})
    async with Client(gateway.url) as client:
        content = b"".join([piece async for piece in client.export()])
    assert {row["id"] for row in rows_of("jsonl", content)} == {*ids}

    def read() -> bytes:
        with SyncClient(gateway.url) as client:
            return b"".join(client.export(TaskFilter(type="b"), "csv"))

    [row] = rows_of("csv", await asyncio.to_thread(read))
    assert row["id"] == ids[1]


async def fill(queue: Queue, tasks: int) -> None:
    """Add tasks of about 650 bytes each, as JSON."""
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, params) SELECT 'many', "
        "jsonb_build_object('n', n, 'text', repeat(md5(n::text), 4)) FROM generate_series(1, $1::int) n",
        tasks,
        timeout=TIMEOUT,
    )


@pytest.fixture
async def many(queue: Queue) -> Queue:
    """A queue with more tasks than fit into the buffers of two sockets."""
    await fill(queue, 30_000)
    return queue


async def exports_in(queue: Queue) -> int:
    return int(
        await pool_of(queue).fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
            "AND left(query, 60) = left($1, 60) AND pid <> pg_backend_pid()",
            statement("export").text,
        )
    )


async def test_who_leaves_ends_the_export(gateway: Gateway, many: Queue) -> None:
    held = gateway.parts.exports
    async with gateway.http.stream("GET", "/api/tasks/export") as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces)
        assert held.total == 1
    await until(lambda: held.total == 0)
    # One that Postgres is still reading for ends as well.
    holder = await asyncpg.connect(many.dsn)
    try:
        await holder.execute("BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        asking = asyncio.create_task(gateway.http.get("/api/tasks/export"))
        await until(lambda: exports_in(many))
        asking.cancel()
        await until(lambda: held.total == 0)

        async def ended() -> bool:
            return await exports_in(many) == 0

        await until(ended)
    finally:
        await holder.close()


async def test_one_token_cannot_take_every_export(database: str, many: Queue, tmp_path: Path) -> None:
    tokens = token_file(tmp_path, read="reader", operate="operator")
    async with running(database, gateway_tokens=tokens, gateway_exports=1) as gateway:
        as_reader, as_operator = ({"authorization": f"Bearer {name}"} for name in ("reader", "operator"))
        url = "/api/tasks/export"
        async with gateway.http.stream("GET", url, headers=as_reader) as first:
            pieces = first.aiter_raw()
            assert await anext(pieces)
            refused = await gateway.http.get(url, headers=as_reader)
            assert refused.status_code == 429
            assert "1 requests of this token export already" in refused.json()["detail"]
            with pytest.raises(GatewayError, match="export already"):
                async with Client(gateway.url, token="reader") as client:
                    [_ async for _ in client.export()]
            async with gateway.http.stream("GET", url, headers=as_operator) as second:
                assert second.status_code == 200
            assert (await gateway.http.get("/api/tasks", headers=as_reader)).status_code == 200


async def test_an_outage_breaks_it_off_and_is_said(database: str, many: Queue, caplog: Any) -> None:
    async with proxied(database) as proxy, running(proxy.dsn) as gateway, Client(gateway.url) as client:
        export = client.export()
        assert await anext(export)
        proxy.refuse()
        with pytest.raises(GatewayUnavailable):
            [_ async for _ in export]
        with pytest.raises(GatewayUnavailable):
            [_ async for _ in client.export()]
        assert "an answer was broken off: GET /api/tasks/export" in caplog.text
        assert not [r for r in caplog.records if r.exc_info and not r.name.startswith("asyncpg")]


@pytest.mark.soak
async def test_200_000_tasks_take_the_memory_of_a_page(queue: Queue) -> None:
    await fill(queue, 200_000)
    gateway = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "organism_flows.serve_apps.gateway",
        env={
            **os.environ,
            "ORGANISM_DSN": queue.dsn,
            "ORGANISM_GATEWAY_OPEN": "true",
            "ORGANISM_GATEWAY_PORT": str(free_port()),
        },
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert gateway.stderr is not None
        line = await asyncio.wait_for(gateway.stderr.readline(), TIMEOUT)
        url = line.decode().split()[-1]
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, trust_env=False) as http:
            for format in ("jsonl", "parquet"):
                # What it takes for a small one: the imports and a page.
                await http.get("/api/tasks/export", params={"format": format, "type": "none"})
                before, size = peak_memory(gateway.pid), 0
                async with http.stream("GET", "/api/tasks/export", params={"format": format}) as answer:
                    async for piece in answer.aiter_raw():
                        size += len(piece)
                grown = peak_memory(gateway.pid) - before
                print(f"{format}: {size / 1e6:.0f} MB exported, {grown / 1e6:.0f} MB more memory")
                assert format != "jsonl" or size > 120_000_000
                assert grown < 50_000_000
    finally:
        gateway.terminate()
        await asyncio.wait_for(gateway.communicate(), TIMEOUT)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def peak_memory(pid: int) -> int:
    """Most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
