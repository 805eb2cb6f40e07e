"""What may be sent before a token is asked for, and what a body may cost after it: both are bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from organism_flows.serve_apps.gateway.http import connection_limits
from organism_flows.serve_apps.gateway.http.connection_limits import HEAD_LIMIT, HEADERS_LIMIT, PIPELINE_LIMIT
from organism_flows.serve_apps.gateway.http.problems import ERRORS_SHOWN
from tests.support.gateway.problems import check_problem
from tests.support.gateway.running import Gateway, running, token_file
from tests.support.stack import until

pytestmark = pytest.mark.anyio
PATIENCE_S = 60
READ_AHEAD = 25_000_000
"""More than the sockets of both sides keep, and less than is sent, in bytes."""
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def closed(database: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway that asks for a token, and a client that has one."""
    tokens = token_file(tmp_path, operate="known")
    async with running(database, gateway_tokens=tokens) as gateway:
        gateway.http.headers["authorization"] = "Bearer known"
        yield gateway


async def send(gateway: Gateway, *parts: bytes, repeat: int = 1) -> tuple[int, bytes]:
    """How many bytes of the last part, sent ``repeat`` times, were taken, and what came back."""
    address = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    sent, answer = 0, b""

    async def listen() -> None:
        nonlocal answer
        try:
            while chunk := await reader.read(65536):
                answer += chunk
        except ConnectionError:
            pass

    listening = asyncio.create_task(listen())
    try:
        writer.write(b"".join(parts[:-1]))
        for _ in range(repeat):
            writer.write(parts[-1])
            await writer.drain()
            sent += len(parts[-1])
    except ConnectionError:
        pass
    try:
        await asyncio.wait_for(listening, PATIENCE_S)
    finally:
        writer.close()
    return sent, answer


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ((GET + b"X-Long: ", b"a" * 65536), b"431"),
        ((GET, b"X" * 65536), b"431"),
        ((b"GET /", b"a" * 65536), b"4"),
        ((b"", b"\r\n" * 32768), b"431"),
        ((GET, b"X-Many: 1\r\n" * 6000), b"431"),
        ((POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX-Trailer: ", b"a" * 65536), b"4"),
        ((POST + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 65536), b"4"),
    ],
    ids=["value", "name", "path", "blank-lines", "many", "trailer", "chunk-extension"],
)
async def test_a_head_without_end_is_cut_off(
    closed: Gateway, parts: tuple[bytes, ...], status: bytes
) -> None:
    """It was read in time that grows with its square: one of 20 MB held all other requests for 12 s."""
    sent, answer = await send(closed, *parts, repeat=400)
    assert sent < READ_AHEAD, "it goes on reading"
    # A reset may overtake the answer; of a path it is 414 or 431, as its pieces come.
    assert not answer or answer.startswith(b"HTTP/1.1 " + status), answer[:200]


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X-Long: " + b"a" * HEAD_LIMIT + b"\r\n\r\n",
        GET + b"X: 1\r\n" * (HEADERS_LIMIT + 1) + b"\r\n",
        b"GET /healthz?" + b"a" * HEAD_LIMIT + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        GET.replace(b"\r\nHost", b"\r\n\x00Host") + b"\r\n",
    ],
    ids=["long", "many", "url", "malformed"],
)
async def test_a_whole_head_beyond_the_limits_is_refused(closed: Gateway, head: bytes) -> None:
    _, answer = await send(closed, head)
    assert answer[9:12] in (b"431", b"414", b"400"), answer[:200]


async def test_requests_in_advance_are_bounded(closed: Gateway) -> None:
    whole = GET + b"\r\n"
    _, answer = await send(closed, whole * 2000)
    assert answer.count(b"HTTP/1.1 200") <= PIPELINE_LIMIT + 1
    _, answer = await send(closed, whole * 4 + GET + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 5


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"GET /healthz HT",
        GET,
        POST + b"Authorization: Bearer known\r\nContent-Length: 100\r\n\r\n{",
        POST + b"Content-Length: 100\r\n\r\n{",
    ],
    ids=["nothing", "line", "head", "body", "body-without-a-token"],
)
async def test_half_a_request_is_not_waited_for(
    closed: Gateway, part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "READ_TIMEOUT_S", 0.2)
    _, answer = await send(closed, part)  # it ends, as the gateway closes the connection
    assert answer[9:12] in (b"408", b"401", b""), answer


async def test_a_new_connection_takes_the_place_of_the_oldest_without_a_request(
    database: str, queue: object
) -> None:
    async with running(database, gateway_connections=20) as gateway:
        [task] = await gateway.submit({"type": "t"})
        waits = asyncio.create_task(gateway.http.get(f"/api/tasks/{task}/wait?timeout=300"))
        await until(lambda: gateway.parts.waiting.waiters == 1)
        address = urlsplit(gateway.url)
        silent = [await asyncio.open_connection(address.hostname, address.port) for _ in range(60)]
        for _ in range(5):
            assert (await gateway.http.get("/healthz")).status_code == 200
        # The first were closed to make room.
        assert await asyncio.wait_for(silent[0][0].read(), PATIENCE_S) == b""
        assert not waits.done(), "a request that waits is no silent connection"
        assert (await gateway.http.post(f"/api/tasks/{task}/cancel")).status_code == 200
        assert (await waits).json()["finished"]
        for _, writer in silent:
            writer.close()


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/cancel", "/api/pauses", "/coordinator/submit"])
async def test_a_million_unknown_fields_make_few_errors(gateway: Gateway, path: str) -> None:
    """They made a million errors, in 31 s and 1.3 GB."""
    body = json.dumps({f"field{number}": 1 for number in range(300_000)})
    answer = await gateway.http.post(path, content=body, headers={"content-type": "application/json"})
    problem = check_problem(answer)
    assert (problem.status, len(problem.errors)) == (422, ERRORS_SHOWN)
    # How many were made at all.
    assert int(problem.detail.rpartition("(and ")[2].split()[0]) < 200


async def test_ten_thousand_wrong_tasks_make_the_errors_of_one(gateway: Gateway) -> None:
    wrong = {f"field{number}": 1 for number in range(50)}
    problem = check_problem(await gateway.http.post("/api/tasks", json=[{"type": "t"}, *[wrong] * 9_000]))
    assert problem.status == 422
    assert problem.errors[0].field.startswith("body.1.")
    assert int(problem.detail.rpartition("(and ")[2].split()[0]) < 200


async def test_bodies_of_many_values_are_refused_unparsed(gateway: Gateway) -> None:
    for body in (
        b"[" + b"{}," * 2_000_000 + b"{}]",
        b"[" * 3_000_000,
        b"[" + b"1," * 3_000_000 + b"1]",
    ):
        answer = await gateway.http.post(
            "/api/tasks", content=body, headers={"content-type": "application/json"}
        )
        assert check_problem(answer).status == 413


async def test_a_query_of_many_parameters_is_refused(gateway: Gateway) -> None:
    problem = check_problem(await gateway.http.get("/api/tasks?" + "status=x&" * 2000))
    assert (problem.status, problem.errors) == (422, [])
