"""Bad input is told what is wrong with it, and never a defect; every error is a problem (RFC 9457)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_from_bytes

import httpx
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.settings import Settings
from organism_flows.serve_apps.gateway.app import create_app
from tests.support.gateway.described import Description
from tests.support.gateway.problems import check_problem
from tests.support.gateway.running import Gateway, running

JSON = {"content-type": "application/json"}


BAD_FIELDS: list[tuple[str, str]] = [
    ('{"type": "a\\u0000b"}', "body.type"),
    ('{"type": "\\ud800"}', "body.type"),
    ('{"type": "  "}', "body.type"),
    ('{"type": 7}', "body.type"),
    ("{}", "body.type"),
    ('{"type": "t", "typ": 1}', "body.typ"),
    ('{"type": "t", "\\ud800": 1}', "body"),
    ('{"type": "t", "params": []}', "body.params"),
    ('{"type": "t", "params": {"n": NaN}}', "body.params"),
    ('{"type": "t", "params": {"n": 1e999}}', "body.params"),
    ('{"type": "t", "params": {"n": "\\u0000"}}', "body.params"),
    ('{"type": "t", "params": {"\\ud800": 1}}', "body.params"),
    ('{"type": "t", "params": {"n": ' + "9" * 4200 + "}}", "body.params"),
    ('{"type": "t", "params": ' + '{"d":' * 300 + "1" + "}" * 300 + "}", "body.params"),
    ('{"type": "t", "params": {"n": "' + "x" * 1_000_001 + '"}}', "body.params"),
    ('{"type": "t", "description": "\\u0000"}', "body.description"),
    ('{"type": "t", "domain": "\\udfff"}', "body.domain"),
    ('{"type": "t", "drift_score": NaN}', "body.drift_score"),
    ('{"type": "t", "drift_score": 1e999}', "body.drift_score"),
    ('{"type": "t", "priority": 1e30}', "body.priority"),
    ('{"type": "t", "priority": ' + "9" * 4200 + "}", "body.priority"),
    ('{"type": "t", "run_after": "0001-01-01T00:00:00+14:00"}', "body.run_after"),
    ('{"type": "t", "run_after": "9999-12-31T23:59:59-14:00"}', "body.run_after"),
    ('{"type": "t", "run_after": 1e300}', "body.run_after"),
    ('{"type": "t", "run_after": -1e15}', "body.run_after"),
    ('{"type": "t", "max_attempts": 0}', "body.max_attempts"),
    ('{"type": "t", "timeout_s": Infinity}', "body.timeout_s"),
    ('{"type": "t", "timeout_s": -1}', "body.timeout_s"),
    ('{"type": "t", "dedup_key": ""}', "body.dedup_key"),
    ('{"type": "t", "id": "7"}', "body.id"),
    ('[{"type": "t"}, {"type": "t", "priority": "high"}]', "body.1.priority"),
    ("[]", "body"),
    ("null", "body"),
    ("7", "body"),
]
UNREADABLE = [
    b"", b"{", b"\xff\xfe", b'{"type": "\xff"}', b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b"\x00",
    b'{"type": "t"} x',
]  # fmt: skip


@pytest.mark.anyio
async def test_each_bad_value_is_named(gateway: Gateway, queue: Queue) -> None:
    for body, field in BAD_FIELDS:
        answer = await gateway.http.post("/api/tasks", content=body, headers=JSON)
        problem = check_problem(answer)
        assert (problem.status, problem.type) == (422, "urn:organism:invalid"), body[:100]
        assert [error.field for error in problem.errors] == [field], body[:100]
        assert len(answer.content) < 2000
    for unreadable in UNREADABLE:
        problem = check_problem(await gateway.http.post("/api/tasks", content=unreadable, headers=JSON))
        assert problem.status in (400, 422), unreadable[:100]
    assert sum((await queue.reader.counts()).values()) == 0
    answer = await gateway.http.post(
        "/api/tasks", content=b'{"type": "t"}', headers={"content-type": "text/plain"}
    )
    assert check_problem(answer).status == 415, "a form of another site may send text/plain"


@pytest.mark.anyio
async def test_a_value_is_shown_shortened(gateway: Gateway) -> None:
    answer = await gateway.http.post("/api/tasks", json={"type": "t", "priority": "x" * 1000})
    [error] = check_problem(answer).errors
    assert error.value == "x" * 100 + "…"


@pytest.mark.anyio
async def test_unknown_routes_and_methods_are_problems(gateway: Gateway) -> None:
    assert check_problem(await gateway.http.get("/api/nothing")).status == 404
    assert check_problem(await gateway.http.get("/api/tasks/")).status == 404
    assert check_problem(await gateway.http.delete("/api/tasks")).status == 405
    assert check_problem(await gateway.http.request("PATCH", "/api/tasks")).status == 405
    assert check_problem(await gateway.http.get("/docs")).status == 404, (
        "it would load scripts from elsewhere"
    )


@pytest.mark.anyio
async def test_a_body_that_is_too_long_is_not_read(database: str) -> None:
    async with running(database, gateway_body_limit=10_000) as gateway:
        fits = json.dumps({"type": "t", "description": "x" * 9_900}).encode()
        assert (await gateway.http.post("/api/tasks", content=fits, headers=JSON)).status_code == 201
        longer = json.dumps({"type": "t", "description": "x" * 10_000}).encode()
        assert (
            check_problem(await gateway.http.post("/api/tasks", content=longer, headers=JSON)).status == 413
        )

        async def chunks() -> Any:
            for start in range(0, len(longer), 1000):
                yield longer[start : start + 1000]

        answer = await gateway.http.post("/api/tasks", content=chunks(), headers=JSON)
        assert "content-length" not in answer.request.headers
        assert check_problem(answer).status == 413


@pytest.mark.anyio
async def test_a_defect_is_logged_and_tells_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("postgresql://me:hunter2@host/db")

    monkeypatch.setattr(Queue, "get", broken)
    answer = await gateway.http.get("/api/tasks/abc")
    assert check_problem(answer).status == 500
    assert "hunter2" not in answer.text
    assert "a request failed: GET /api/tasks/abc" in caplog.text


# Whatever is sent


class InProcess:
    """The app on an event loop of its own, for tests that Hypothesis runs."""

    def __init__(self, dsn: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.app = create_app(Settings(dsn=dsn, gateway_open=True))
        self.lifespan = self.app.router.lifespan_context(self.app)
        self.loop.run_until_complete(self.lifespan.__aenter__())
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        hooks = {"response": [Description(self.app).check]}
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost", event_hooks=hooks)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.loop.run_until_complete(self.http.request(method, path, **options))

    def close(self) -> None:
        self.loop.run_until_complete(self.http.aclose())
        self.loop.run_until_complete(self.lifespan.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def app(databases: Any) -> Iterator[InProcess]:
    app = InProcess(asyncio.run(databases.create()))
    yield app
    app.close()


FIELDS = (
    "type", "params", "description", "domain", "drift_score", "priority", "run_after", "max_attempts",
    "timeout_s", "dedup_key", "id", "run_immediately", "other",
)  # fmt: skip
texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
odd_texts = st.sampled_from(["t", "\x00", "\ud800"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.sampled_from(["t", "\x00", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
tasks = st.fixed_dictionaries({"type": st.just("t") | values}, optional=dict.fromkeys(FIELDS[1:], values))
fuzz = settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


def check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        check_problem(answer)


@fuzz
@given(body=tasks | st.lists(tasks, max_size=3) | values)
@example(body={"type": "t", "run_after": -62135596800})
@example(body={"type": "t", "run_after": "0001-01-01"})
@example(body={"type": "t", "timeout_s": 1e308, "drift_score": -1.7e308})
@example(body={"type": "t", "timeout_s": 5e-324})
def test_no_submission_is_a_defect(app: InProcess, body: Any) -> None:
    answer = app.request("POST", "/api/tasks", content=json.dumps(body).encode(), headers=JSON)
    check(answer)
    if answer.status_code == 201:
        for task in answer.json()["tasks"]:
            shown = app.request("GET", f"/api/tasks/{task['id']}")
            assert shown.status_code == 200
            assert app.request("GET", f"/api/tasks/{task['id']}/why").status_code == 200
    elif isinstance(body, dict) and body.keys() == {"type"}:
        assert answer.json()["errors"][0]["field"] == "body.type"


@fuzz
@given(
    content=st.binary(max_size=60), kind=st.sampled_from(["application/json", "text/plain", "", "a/b+json"])
)
def test_no_bytes_are_a_defect(app: InProcess, content: bytes, kind: str) -> None:
    for path in ("/api/tasks", "/api/tasks/cancel"):
        check(app.request("POST", path, content=content, headers={"content-type": kind}))


@fuzz
@given(
    task_id=texts.filter(lambda text: text not in ("", ".", "..")),
    verb=st.sampled_from(["", "/why", "/wait"]),
)
def test_no_id_is_a_defect(app: InProcess, task_id: str, verb: str) -> None:
    name = quote(task_id.encode("utf-8", "surrogatepass"), safe="")
    check(app.request("GET", f"/api/tasks/{name}{verb}"))
    check(app.request("POST", f"/api/tasks/{name}/retry"))


@fuzz
@given(
    query=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "status",
                    "type",
                    "domain",
                    "created_since",
                    "created_until",
                    "error",
                    "limit",
                    "cursor",
                    "x",
                ]
            ),
            st.binary(max_size=30)
            | st.sampled_from([b"queued", b"2030-01-01", b"5", b"\x00", b"nan", b"9" * 400]),
        ),
        max_size=4,
    )
)
def test_no_query_is_a_defect(app: InProcess, query: list[tuple[str, bytes]]) -> None:
    text = "&".join(f"{name}={quote_from_bytes(value)}" for name, value in query)
    check(app.request("GET", f"/api/tasks?{text}"))


@fuzz
@given(
    body=st.dictionaries(
        st.sampled_from(["status", "type", "created_since", "error", "dry_run", "x"]), values
    )
)
def test_no_filter_is_a_defect(app: InProcess, body: dict[str, Any]) -> None:
    check(app.request("POST", "/api/tasks/cancel", content=json.dumps(body).encode(), headers=JSON))
