"""Who is let in: tokens and their scopes, loopback, pages of other sites."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.local_stack.access_token import TOKEN_FILE
from organism_flows.blocks.settings import Settings
from organism_flows.serve_apps.gateway.__main__ import bound
from organism_flows.serve_apps.gateway.app import create_app
from organism_flows.serve_apps.gateway.http.tokens import check_binding, read_tokens
from organism_flows.serve_apps.http_access import is_loopback
from tests.support.gateway.problems import check_problem
from tests.support.gateway.running import Gateway, running, token_file
from tests.support.stack import until

ROOT = Path(__file__).parents[4]
TOKENS = {"read": "can-read", "submit": "can-submit", "operate": "can-operate"}
READS = ["/api/tasks", "/api/tasks/{id}", "/api/tasks/{id}/status", "/api/tasks/{id}/why",
         "/api/tasks/{id}/wait?timeout=0", "/api/tasks/{id}/events", "/metrics", "/api/pauses"]  # fmt: skip
STEERS = ["/api/tasks/{id}/retry", "/api/tasks/{id}/cancel", "/api/tasks/{id}/run", "/api/tasks/cancel",
          "/api/tasks/redrive", "/api/tasks/retry"]  # fmt: skip


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.anyio
async def test_scopes(database: str, tmp_path: Path) -> None:
    tokens = token_file(tmp_path, **TOKENS)
    async with running(database, gateway_tokens=tokens) as gateway:
        for headers in (
            {},
            bearer("wrong"),
            {"authorization": "Bearer"},
            {"authorization": "Basic Y2FuLXJlYWQ="},
            bearer("é"),
        ):
            raw = {name.encode(): value.encode() for name, value in headers.items()}
            for method, path in [("GET", READS[0]), ("POST", "/api/tasks"), ("GET", "/nowhere")]:
                answer = await gateway.http.request(method, path, headers=raw)
                assert check_problem(answer).status == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await gateway.http.get(path)).status_code == 200
        body = {"type": "t", "run_immediately": False}
        answer = await gateway.http.post("/api/tasks", json=body, headers=bearer("can-read"))
        assert check_problem(answer).status == 403
        for token in ("can-submit", "can-operate"):
            answer = await gateway.http.post("/api/tasks", json=body, headers=bearer(token))
            assert answer.status_code == 201
        task_id = answer.json()["tasks"][0]["id"]
        for path in STEERS:
            for token in ("can-read", "can-submit"):
                answer = await gateway.http.post(path.format(id=task_id), headers=bearer(token))
                assert check_problem(answer).status == 403, (path, token)
                assert "operate" in answer.text
            answer = await gateway.http.post(
                path.format(id=task_id), json={"type": "x"}, headers=bearer("can-operate")
            )
            assert answer.status_code in (200, 409), path
        for path in READS:
            for token in TOKENS.values():
                answer = await gateway.http.get(path.format(id=task_id), headers=bearer(token))
                assert answer.status_code == 200, (path, token)


@pytest.mark.anyio
async def test_a_token_is_asked_for_before_the_body_is_read(database: str, tmp_path: Path) -> None:
    async with running(database, gateway_tokens=token_file(tmp_path, **TOKENS)) as gateway:
        host, _, port = gateway.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST /api/tasks HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9000\r\n\r\n".encode())
        assert b"401" in await asyncio.wait_for(reader.readline(), 20)
        writer.close()


@pytest.mark.anyio
async def test_pages_of_other_sites_are_refused(gateway: Gateway) -> None:
    """A page in a browser on this machine may send here; its origin, or the name it uses, gives it away."""
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"host": "evil.example"},
        {"host": "evil.example:8080"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "["},
        {"origin": "http://["},
    ):
        answer = await gateway.http.post("/api/tasks", json={"type": "t"}, headers=headers)
        assert check_problem(answer).status == 403, headers
    for headers in ({"host": "localhost:9"}, {"host": "[::1]"}, {"origin": gateway.url}):
        assert (await gateway.http.get("/api/tasks", headers=headers)).status_code == 200, headers
    answer = await gateway.http.options("/api/tasks", headers={"origin": gateway.url})
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.anyio
async def test_over_loopback_only_known_names_are_answered(database: str, tmp_path: Path) -> None:
    tokens = token_file(tmp_path, **TOKENS)
    async with running(
        database, gateway_tokens=tokens, token="can-read", hosts="tasks.example, b"
    ) as gateway:
        for host, expected in (("localhost", 200), ("TASKS.example:80", 200), ("b", 200), ("c.b", 403)):
            for path in ("/api/tasks", "/healthz"):
                answer = await gateway.http.get(path, headers={"host": host, **bearer("can-read")})
                assert answer.status_code == expected, (host, path)
    for peer, hosts, expected in (("10.0.0.1", "", 200), ("10.0.0.1", "other", 403), ("127.0.0.1", "", 403)):
        app = create_app(Settings(dsn=database, gateway_tokens=tokens, hosts=hosts))
        scope_server = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=scope_server, base_url=f"http://{peer}") as http:
            named = {"host": "gateway.example"}
            assert (await http.get("/healthz", headers=named)).status_code == expected, (peer, hosts)


@pytest.mark.anyio
async def test_forms_and_compressed_bodies_are_refused_unread(gateway: Gateway) -> None:
    for headers in (
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": ""},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ):
        for path in ("/api/tasks", "/api/tasks/cancel", "/api/pauses", "/api/tasks/00/cancel"):
            answer = await gateway.http.post(path, content=b'{"type": "t"}', headers=headers)
            assert check_problem(answer).status == 415, (headers, path)


@pytest.mark.anyio
async def test_no_token_learns_where_the_database_is(tmp_path: Path) -> None:
    tokens = token_file(tmp_path, **TOKENS)
    async with running("postgresql://me:hunter2@127.0.0.1:1/tasksdb", gateway_tokens=tokens) as gateway:
        for headers in ({}, bearer("wrong")):
            answer = await gateway.http.get("/readyz", headers=headers)
            assert check_problem(answer).status == 503
            assert not [word for word in ("127.0.0.1", "tasksdb", "me@") if word in answer.text]
        known = await gateway.http.get("/readyz", headers=bearer("can-read"))
        assert "127.0.0.1" in check_problem(known).detail


@pytest.mark.anyio
async def test_a_forwarded_address_evades_no_limit(database: str) -> None:
    async with running(database, gateway_rate=5) as gateway:
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(
                    gateway.http.get("/api/tasks", headers={"x-forwarded-for": f"10.0.0.{number}"})
                )
                for number in range(20)
            ]
        statuses = [each.result().status_code for each in asked]
        assert statuses.count(429) >= 10
        assert set(statuses) == {200, 429}


@pytest.mark.anyio
async def test_without_tokens_other_machines_are_refused_however_it_listens(database: str) -> None:
    app = create_app(Settings(dsn=database, gateway_open=True))
    for peer, expected in (("10.0.0.1", 403), ("127.0.0.1", 200), ("::1", 200), ("::ffff:127.0.0.1", 200)):
        transport = httpx.ASGITransport(app, client=(peer, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            assert (await http.get("/healthz")).status_code == expected, peer


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_listening_wider_needs_tokens(host: str, alone: bool, tmp_path: Path) -> None:
    assert is_loopback(host) is alone

    def check(**settings: Any) -> None:
        check_binding(Settings.model_construct(gateway_host=host, **settings))

    check(token=SecretStr("s" * 20))
    check(gateway_tokens=tmp_path)
    if alone:
        check()
        check(gateway_open=True)
    else:
        with pytest.raises(ConfigurationError, match="without tokens"):
            check()
        with pytest.raises(ConfigurationError, match="without tokens"):
            check(gateway_open=True, gateway_tokens=tmp_path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "holds no token"),
        ("# nothing\n", "holds no token"),
        ("read:abc", "line 1 is not"),
        (f"root:{'0' * 64}", "line 1 is not"),
        (f"read:{'0' * 64}\nhunter2", "line 2 is not"),
        ("\xff", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_of_tokens_is_refused(tmp_path: Path, text: str | None, error: str) -> None:
    path = tmp_path / "tokens"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=error) as refused:
        read_tokens(path)
    assert "hunter2" not in str(refused.value)


def test_tokens_are_compared_whole(tmp_path: Path) -> None:
    tokens = read_tokens(token_file(tmp_path, read="a", operate="b"))
    held = [tokens.holder_of(t) for t in ("a", "b", "", "A", "ab", "\udc80")]
    assert [holder and holder.scope for holder in held] == ["read", "operate", *[None] * 4]
    assert tokens.holder_of(hashlib.sha256(b"a").hexdigest()) is None, "the digest is no token"


@pytest.mark.anyio
async def test_a_changed_file_of_tokens_is_read_anew_and_a_broken_one_is_not(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("organism_flows.serve_apps.gateway.http.tokens.LOOK_EVERY_S", 0.0)
    path = token_file(tmp_path, read="first")
    async with running(database, gateway_tokens=path) as gateway:

        async def code(token: str) -> int:
            return (await gateway.http.get("/api/tasks", headers=bearer(token))).status_code

        assert [await code(t) for t in ("first", "second")] == [200, 401]
        token_file(tmp_path, read="second")
        assert [await code(t) for t in ("first", "second")] == [401, 200]
        path.write_text("read:hunter2")
        assert [await code(t) for t in ("first", "second")] == [401, 200]
        assert "stay as they were" in caplog.text
        assert "hunter2" not in caplog.text
        path.unlink()
        assert await code("second") == 200


@pytest.mark.anyio
async def test_more_requests_than_may_be_are_refused_client_by_client(database: str, tmp_path: Path) -> None:
    tokens = token_file(tmp_path, read="one", submit="two")
    async with running(database, gateway_tokens=tokens, gateway_rate=5) as gateway:
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(gateway.http.get("/api/tasks", headers=bearer("one"))) for _ in range(20)
            ]
        answers = [each.result() for each in asked]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert 10 <= len(refused) <= 15, "five of a second, and it may have been two seconds"
        assert check_problem(refused[0]).type == "urn:organism:too-many"
        assert int(refused[0].headers["retry-after"]) >= 1
        assert (await gateway.http.get("/api/tasks", headers=bearer("two"))).status_code == 200
        assert (await gateway.http.get("/healthz")).status_code == 200

        async def admitted() -> bool:
            return (await gateway.http.get("/api/tasks", headers=bearer("one"))).status_code == 200

        await until(admitted)


@pytest.mark.anyio
async def test_no_answer_of_any_route_holds_a_secret(tmp_path: Path) -> None:
    """Neither what is right nor what is refused, and least of all while the database cannot be reached."""
    tokens = token_file(tmp_path, operate="s3cret")
    secrets = {"s3cret", hashlib.sha256(b"s3cret").hexdigest(), "hunter2", str(tokens)}
    seen: set[int] = set()
    async with running("postgresql://me:hunter2@127.0.0.1:1/db", gateway_tokens=tokens) as gateway:
        document = (await gateway.http.get("/openapi.json")).json()
        for path, routes in document["paths"].items():
            url = path.format(task_id="0" * 32, event="e")
            for method in routes:
                for headers in ({}, bearer("s3cret"), {"authorization": "s3cret"}):
                    for body in ({"type": "t"}, {"kind": "type", "name": "t"}, {}):
                        answer = await gateway.http.request(method.upper(), url, json=body, headers=headers)
                        seen.add(answer.status_code)
                        said = answer.text + str(answer.headers)
                        assert not [secret for secret in secrets if secret in said], (method, path)
    assert {200, 401, 422, 503} <= seen


# The process


def start(database: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "ORGANISM_DSN": database, **environment},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


PROGRAM = """
import sys
from organism_flows.serve_apps.gateway.__main__ import main
code = main()
heavy = [m for m in ("ray", "prefect", "alembic", "deployments") if m in sys.modules]
sys.exit(code or (f"imported {heavy}" if heavy else 0))
"""


def test_the_process_serves_without_ray_or_prefect(databases: Any, tmp_path: Path) -> None:
    dsn = asyncio.run(databases.create())
    home = tmp_path / "home"
    process = start(dsn, ORGANISM_HOME=str(home))
    assert process.stderr is not None
    line = process.stderr.readline()
    match = re.fullmatch(r"gateway: (http://127\.0\.0\.1:80[89]\d)\n", line)
    assert match, line + process.stderr.read()
    path = home / TOKEN_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    token = path.read_text().strip()
    with httpx.Client(base_url=match[1], trust_env=False) as stranger:
        assert stranger.post("/api/tasks", json={"type": "t"}).status_code == 401
    with httpx.Client(base_url=match[1], trust_env=False, headers=bearer(token)) as http:
        # One more finds another port, and the same token.
        other = start(dsn, ORGANISM_HOME=str(home))
        assert other.stderr is not None
        neighbour = other.stderr.readline()
        assert "gateway: http" in neighbour
        assert neighbour != line
        [task] = http.post("/api/tasks", json={"type": "t"}).json()["tasks"]
        assert http.get(f"/api/tasks/{task['id']}").json()["status"] == "queued"
        assert path.read_text().strip() == token
        answer = http.get("/readyz")
        assert "uvicorn" not in answer.headers.get("server", "")
    for each in (process, other):
        each.send_signal(signal.SIGINT)
        _, errors = each.communicate(timeout=30)
        assert "imported" not in errors
        assert each.returncode in (0, -signal.SIGINT), errors


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with (
        bound("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()) as _,
        listener.accept()[0] as accepted,
    ):
        # What asyncio looks at before it turns Nagle's algorithm off.
        assert accepted.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        ({"ORGANISM_GATEWAY_HOST": "0.0.0.0"}, "without tokens"),
        ({"ORGANISM_GATEWAY_TOKENS": "/nowhere"}, "cannot read the tokens"),
        ({"ORGANISM_GATEWAY_PORT": "http"}, "ORGANISM_GATEWAY_PORT"),
        ({"ORGANISM_GATEWAY_HOST": "203.0.113.1", "ORGANISM_GATEWAY_TOKENS": "{tokens}"}, "cannot listen"),
        ({"ORGANISM_DSN": ""}, "no database"),
    ],
)
def test_a_start_that_cannot_be_says_why_on_one_line(
    tmp_path: Path, environment: dict[str, str], error: str
) -> None:
    tokens = str(token_file(tmp_path, read="x"))
    environment = {name: value.format(tokens=tokens) for name, value in environment.items()}
    process = start("postgresql://me:hunter2@127.0.0.1:1/db", **environment)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error in errors
    assert errors.count("\n") == 1
    assert "hunter2" not in errors
