"""The picture of docs/how-to/trace-a-task.md: one trace, as the SDK's exporter got it, drawn as a chart.

A queue, a lane and an organism run in this process, so that one exporter sees all spans:

    python docs/screenshots.py trace
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from organism_flows.blocks.queue import NewTask, Queue, migrate
from organism_flows.deployments.stack.postgres.server import EmbeddedPostgres
from organism_flows.flows.lanes.lane import Lane
from tests.support.local_organism import LocalOrganism

mpl.use("Agg")
COLORS = {"own": "#2f855a", "ours": "#2563eb"}


async def caption(task: dict[str, Any]) -> str:
    """Stand for a handler with spans of its own."""
    tracer = trace.get_tracer("user")
    with tracer.start_as_current_span("load image"):
        await asyncio.sleep(0.03)
    with tracer.start_as_current_span("run model"):
        await asyncio.sleep(0.08)
    return "a dog"


async def take_trace(images: Path) -> None:
    """Write ``trace.svg`` into ``images``."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    os.environ["OTEL_TRACES_EXPORTER"] = "console"  # any name: the provider above is kept
    with tempfile.TemporaryDirectory(prefix="organism-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        await asyncio.to_thread(home.chmod, 0o711)
        await asyncio.to_thread((home / "logs").mkdir)
        postgres = EmbeddedPostgres(home, "trace")
        child = await postgres.start(dict(os.environ))
        try:
            await postgres.wait_ready(child)
            await migrate(postgres.dsn())
            await _run(postgres.dsn())
        finally:
            child.process.terminate()
            child.process.wait(20)
    spans = exporter.get_finished_spans()
    wanted = next(span for span in reversed(spans) if span.name == "run model").get_span_context()
    assert wanted is not None
    _draw([span for span in spans if _context(span).trace_id == wanted.trace_id], images / "trace.svg")
    print(images / "trace.svg")


async def _run(dsn: str) -> None:
    config = {"organs": [{"id": "captions", "task_types": ["caption"], "handler": f"{__name__}:caption"}]}
    async with Queue(dsn) as queue:
        # The first task makes connections and plans. The picture is of the second.
        for number in (1, 2):
            with trace.get_tracer("user").start_as_current_span("POST /upload"):
                await queue.submit([NewTask(type="caption", params={"image": number})])
            await Lane(queue, LocalOrganism(config), until_empty=True).run()


def _context(span: ReadableSpan) -> trace.SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def _draw(spans: Sequence[ReadableSpan], path: Path) -> None:
    from matplotlib import pyplot

    children: dict[int | None, list[ReadableSpan]] = {}
    known = {_context(span).span_id for span in spans}
    for span in sorted(spans, key=lambda one: one.start_time or 0):
        parent = span.parent.span_id if span.parent and span.parent.span_id in known else None
        children.setdefault(parent, []).append(span)

    def rows(parent: int | None, depth: int) -> list[tuple[int, ReadableSpan]]:
        return [
            row
            for span in children.get(parent, [])
            for row in [(depth, span), *rows(_context(span).span_id, depth + 1)]
        ]

    lines = rows(None, 0)
    first = min(span.start_time or 0 for span in spans)
    figure, axes = pyplot.subplots(figsize=(9.5, 0.42 * len(lines) + 0.9))
    for row, (depth, span) in enumerate(lines):
        start, end = ((at or first) - first for at in (span.start_time, span.end_time))
        ours = span.instrumentation_scope is not None and span.instrumentation_scope.name != "user"
        axes.barh(row, max((end - start) / 1e6, 0.6), left=start / 1e6, height=0.6,
                  color=COLORS["ours" if ours else "own"])  # fmt: skip
        axes.text(end / 1e6 + 1.5, row, f"{(end - start) / 1e6:.1f} ms", va="center", fontsize=8.5)
        axes.text(-0.28, row, "    " * depth + span.name, va="center", fontsize=9.5,
                  transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_xlabel("milliseconds since the trace began; green: spans of the user's own code")
    axes.margins(x=0.12)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.xaxis.grid(True, color="#e2e8f0", zorder=0)
    axes.set_axisbelow(True)
    figure.subplots_adjust(left=0.22, right=0.98, top=0.97, bottom=0.16)
    figure.savefig(path, metadata={"Date": None})
