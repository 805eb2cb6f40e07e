"""Tracing: when it is on, what it costs when it is off, and contexts that pass through."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from organism_flows.blocks.client.async_client import Client
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.tracing import exporters, valid_traceparent
from tests.support.gateway.running import running
from tests.support.queue.helpers import claim, outcomes_of

CONTEXT = SpanContext(0xAB, 0xCD, is_remote=False, trace_flags=TraceFlags(1))
TRACEPARENT = f"00-{0xAB:032x}-{0xCD:016x}-01"


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, []),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, []),
        ({"OTEL_SERVICE_NAME": "only a name"}, []),
    ],
)
def test_the_environment_decides(environment: dict[str, str], found: list[str]) -> None:
    assert exporters(environment) == found


def test_off_it_imports_nothing() -> None:
    code = (
        "import asyncio, sys; from organism_flows.blocks.queue import Batch, NewTask; "
        "from organism_flows.blocks.queue.traces import claimed, submitting; "
        "import organism_flows.flows.lanes.lane; "
        "from organism_flows.flows.lanes.task_spans import TaskSpans; "
        "import organism_flows.serve_apps.organism.execution.handler_spans; "
        "spans = TaskSpans('lane'); batch = Batch(); claimed(batch, [], [], 'lane', 0); spans.begin(batch); "
        "print(submitting([NewTask(type='t')], None).__enter__(), "
        "[name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None []"


def test_an_exporter_that_is_not_installed_is_said_and_nothing_else() -> None:
    code = "from organism_flows.blocks.tracing import tracer; print(tracer())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "OTEL_TRACES_EXPORTER": "nonsense"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "None"
    assert "no exporter of traces is called nonsense" in done.stderr


@pytest.mark.parametrize("text", [None, "", "nonsense", TRACEPARENT.upper(), f"{TRACEPARENT}-more", "\x00"])
def test_what_is_no_context_counts_as_none(text: str | None) -> None:
    assert valid_traceparent(text) is None


@pytest.mark.anyio
async def test_a_trace_goes_on_through_us_though_we_trace_nothing(database: str, queue: Queue) -> None:
    with use_span(NonRecordingSpan(CONTEXT)):
        [direct] = await queue.submit([NewTask(type="t")])
        own = f"00-{'1' * 32}-{'2' * 16}-00"
        [given] = await queue.submit([NewTask(type="t", traceparent=own)])
        async with running(database) as gateway, Client(gateway.url) as client:
            over_http = await client.submit("t")
    async with running(database) as gateway:
        nonsense = await gateway.http.post("/api/tasks", json={"type": "t"}, headers={"traceparent": "none"})
        refused = await gateway.http.post("/api/tasks", json={"type": "t", "traceparent": "none"})
    assert (await queue.get(str(direct))).traceparent == TRACEPARENT
    assert (await queue.get(str(given))).traceparent == own
    assert (await queue.get(str(over_http.id))).traceparent == TRACEPARENT
    assert (await queue.get(nonsense.json()["tasks"][0]["id"])).traceparent is None
    assert refused.status_code == 422


@pytest.mark.anyio
async def test_a_log_is_written_with_its_settlement(queue: Queue) -> None:
    tasks = await queue.submit([NewTask(type="t", max_attempts=2) for _ in range(3)])
    batch = await claim(queue)
    failed = outcomes_of(batch, "failed", error="no")
    failed.logs = {batch.claims[0]: "first try"}
    await queue.claims.settle("lane", batch, failed)
    first = await queue.get(batch.ids[0])
    assert (first.log, [one.log for one in first.history]) == ("first try", ["first try"])
    others = [await queue.get(str(task)) for task in tasks if str(task) != batch.ids[0]]
    assert [(one.log, one.history[0].log) for one in others] == [(None, None)] * 2
    [again] = await queue.submit([NewTask(type="again")])
    batch = await claim(queue)
    completed = outcomes_of(batch, "completed", result="1")
    completed.logs = {batch.claims[0]: "done"}
    await queue.claims.settle("lane", batch, completed)
    assert (await queue.get(str(again))).log == "done"
