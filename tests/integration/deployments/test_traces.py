"""One trace from submission to settlement, and the logs of tasks, on a real stack with a real exporter."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest

from organism_flows.blocks.queue import Queue
from tests.support.otlp import Collector, Span, collecting
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack("own")]
CONFIG = Path(__file__).parents[2] / "organism" / "traced.yaml"
CONSUMER, PRODUCER, CLIENT, ERROR = 5, 4, 3, 2


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Stack]:
    """A stack whose parts send their spans to the collector."""
    home = Path(tempfile.mkdtemp(prefix="organism-traced-"))
    home.chmod(0o711)
    stack = Stack(home)
    stack.env |= {
        "ORGANISM_CONFIG": str(CONFIG),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    try:
        stack.run("up")
        yield stack
    finally:
        stack.run("down")
        shutil.rmtree(home, ignore_errors=True)


def ids() -> tuple[str, str, str]:
    trace, span = uuid4().hex, os.urandom(8).hex()
    return trace, span, f"00-{trace}-{span}-01"


async def complete(collector: Collector, trace: str, *names: str) -> dict[str, Span]:
    """The spans of a trace, once those with these names have arrived."""
    await until(lambda: set(names) <= collector.of(trace).keys())
    return collector.of(trace)


@pytest.mark.soak
async def test_one_trace_from_http_to_settlement(traced: Stack, collector: Collector) -> None:
    kinds = ("loop", "thread", "process")
    made = {kind: ids() for kind in kinds}
    async with httpx.AsyncClient(base_url=traced.state.gateway_url, headers=traced.headers) as http:
        tasks = {}
        for kind, (_, _, traceparent) in made.items():
            answer = await http.post(
                "/api/tasks",
                json={"type": f"traced.{kind}", "params": {"fail": kind == "thread"}, "max_attempts": 1},
                headers={"traceparent": traceparent},
            )
            tasks[kind] = answer.json()["tasks"][0]["id"]
        many = await http.post("/api/tasks", json=[{"type": "traced.many"}] * 3)
        assert many.status_code == 201
    traced.run("dispatch", "--until-empty", code=0)

    for kind, (trace, caller, _) in made.items():
        type_ = f"traced.{kind}"
        own = "own loop" if kind == "loop" else "own thread"
        wanted = [f"{what} {type_}" for what in ("submit", "wait", "process", "handle")]
        found = await complete(collector, trace, *wanted, "settle", own)
        submit, wait, process, handle = (found[name] for name in wanted)
        assert (submit.parent, submit.kind, submit.service) == (caller, PRODUCER, "organism-gateway")
        assert (wait.parent, wait.service) == (submit.id, "organism-lane")
        assert (process.parent, process.kind) == (submit.id, CONSUMER)
        assert (handle.parent, handle.service) == (process.id, "organism-replica")
        assert found[own].parent == handle.id, "spans of handlers join by context"
        assert found["settle"].parent == process.id
        assert wait.start_ns <= wait.end_ns <= process.start_ns + 10**9
        assert process.start_ns <= found["settle"].start_ns <= found["settle"].end_ns <= process.end_ns
        assert process.attributes["messaging.system"] == "organism_flows"
        assert process.attributes["messaging.operation.type"] == "process"
        assert process.attributes["messaging.destination.name"] == type_
        assert process.attributes["messaging.message.id"] == tasks[kind]
        failed = kind == "thread"
        assert process.attributes["organism.cause"] == ("failed" if failed else "completed")
        assert (process.status == ERROR) is (handle.status == ERROR) is failed
    claims = [span for span in collector.spans if span.name == "claim tasks"]
    linked = {trace for span in claims for trace, _ in span.links}
    assert {trace for trace, _, _ in made.values()} <= linked
    assert {span.kind for span in claims} == {CLIENT}
    await until(lambda: [span for span in collector.spans if span.name == "handle traced.many"])
    [batch] = [span for span in collector.spans if span.name == "handle traced.many"]
    assert (batch.parent, batch.attributes["messaging.batch.message_count"]) == ("", 3)
    processes = {(span.trace, span.id) for span in collector.spans if span.name == "process traced.many"}
    assert set(batch.links) == processes
    assert len(processes) == 3

    async with Queue(traced.state.dsn) as queue:
        rows = {kind: await queue.get(task) for kind, task in tasks.items()}
    assert "INFO looked at {'fail': False}" in str(rows["loop"].log)
    assert "WARNING half way" in str(rows["process"].log)
    assert "WARNING half way" in str(rows["thread"].history[0].log)
    shown = traced.start("tasks", "show", tasks["loop"])
    out, _ = shown.communicate(timeout=60)
    assert "looked at" in out
    assert made["loop"][0] in out


@pytest.mark.soak
async def test_the_trace_of_the_command_line_and_of_a_column(traced: Stack, collector: Collector) -> None:
    [by_command] = traced.run("submit", "traced.loop")["ids"]
    trace, _, traceparent = ids()
    unsampled, nonsense = f"{ids()[2][:-2]}00", "no trace at all"
    connection = await asyncpg.connect(traced.state.dsn)
    insert = "INSERT INTO tasks (type, params, traceparent) VALUES ('traced.loop', '{}', $1) RETURNING id"
    by_column = [
        str(await connection.fetchval(insert, text)) for text in (traceparent, unsampled, nonsense, None)
    ]
    await connection.close()
    traced.run("dispatch", "--until-empty")
    own = await complete(collector, trace, "wait traced.loop", "process traced.loop", "own loop")
    assert own["process traced.loop"].attributes["messaging.message.id"] == by_column[0]

    def traces_of(task: str) -> set[str]:
        return {s.trace for s in collector.spans if s.attributes.get("messaging.message.id") == task}

    async with Queue(traced.state.dsn) as queue:
        context = (await queue.get(by_command)).traceparent
        assert context is not None
        assert {row.status for row in [await queue.get(task) for task in by_column]} == {"completed"}
    found = await complete(collector, context[3:35], "submit traced.loop", "process traced.loop")
    assert found["submit traced.loop"].service == "organism"
    await until(lambda: all(len(traces_of(task)) == 1 for task in by_column[2:]))
    assert not traces_of(by_column[1]), "whoever began the trace did not sample it"
