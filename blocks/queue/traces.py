"""The spans of the queue itself: submissions, waits and claims. See docs/decisions/0040-traces.md."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from organism_flows.blocks import tracing
from organism_flows.blocks.queue.models.operations import NewTask
from organism_flows.blocks.queue.wire import Batch

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


@contextmanager
def submitting(tasks: Sequence[NewTask], parent: str | None) -> Iterator[str | None]:
    """Trace a submission. Yield the trace context for those of its tasks that have none.

    Args:
        tasks: The tasks.
        parent: Context that the producer gave; `None` means that of the current span, if there is one.
    """
    if (tracer := tracing.tracer()) is None:
        # Whoever traces elsewhere still gets one trace: it goes through us.
        yield parent or tracing.current_traceparent()
        return
    from opentelemetry.trace import SpanKind

    types = {task.type for task in tasks}
    destination = next(iter(types)) if len(types) == 1 else None
    attributes = tracing.attributes_of(
        "submit",
        "send",
        destination,
        messaging__batch__message_count=len(tasks) if len(tasks) > 1 else None,
    )
    context = tracing.context_of(parent) if parent else None
    with tracer.start_as_current_span(
        f"submit {destination or 'tasks'}", context, SpanKind.PRODUCER, attributes
    ) as span:
        yield tracing.traceparent_of(span)


def claimed(
    batch: Batch, traceparents: Sequence[str | None], due: Sequence[datetime], lane: str, started_ns: int
) -> None:
    """Trace the waits of claimed tasks and the claim itself, and note in the batch which tasks are traced.

    The wait of a task that came without a trace begins one, if the sampler says so.

    Args:
        batch: The tasks.
        traceparents: Their contexts from the table, which anybody may have written.
        due: When each was due, in UTC and without a time zone.
        lane: Id of the lane.
        started_ns: When the claim began, in nanoseconds of the epoch.
    """
    if (tracer := tracing.tracer()) is None:
        return
    from opentelemetry.trace import SpanKind

    now_ns = time.time_ns()
    for row, claim in enumerate(batch.claims):
        parent = tracing.valid_traceparent(traceparents[row])
        if parent is not None and not _sampled(parent):
            continue
        kind = batch.types[row]
        span = tracer.start_span(
            f"wait {kind}",
            tracing.context_of(parent),
            attributes=tracing.attributes_of("wait", "receive", kind, messaging__message__id=batch.ids[row]),
            start_time=min(int(max(due[row].replace(tzinfo=UTC), EARLIEST).timestamp() * 1e9), now_ns),
        )
        span.end(now_ns)
        context = parent or tracing.traceparent_of(span)
        if context is not None and _sampled(context):
            batch.traces[claim] = context
    if batch.traces:
        span = tracer.start_span(
            "claim tasks",
            tracing.context_of(None),
            SpanKind.CLIENT,
            tracing.attributes_of(
                "claim",
                "receive",
                None,
                messaging__client__id=lane,
                messaging__batch__message_count=len(batch),
            ),
            tracing.links_to(batch.traces.values()),
            started_ns,
        )
        span.end(now_ns)


def _sampled(traceparent: str) -> bool:
    return bool(int(traceparent[-2:], 16) & 1)
