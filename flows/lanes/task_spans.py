"""The spans of the tasks that a lane holds, from claim to settlement, and those of its calls."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from organism_flows.blocks import tracing
from organism_flows.blocks.queue import Batch, Outcomes

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class TaskSpans:
    """Keeps the open span of each traced task of one lane. Without traced tasks it does nothing.

    The span of a task that the lane loses is never sent: the lane does not know how it ended.

    Args:
        lane: Id of the lane.
    """

    def __init__(self, lane: str) -> None:
        self._lane = lane
        self._open: dict[int, Span] = {}

    def begin(self, batch: Batch) -> None:
        """Begin the spans of claimed tasks. From here on, the batch carries them as parents."""
        tracer = tracing.tracer()
        if not batch.traces or tracer is None:
            return
        from opentelemetry.trace import SpanKind

        for row, claim in enumerate(batch.claims):
            if (parent := batch.traces.get(claim)) is None:
                continue
            kind = batch.types[row]
            span = self._open[claim] = tracer.start_span(
                f"process {kind}",
                tracing.context_of(parent),
                SpanKind.CONSUMER,
                tracing.attributes_of(
                    "process",
                    "process",
                    kind,
                    messaging__message__id=batch.ids[row],
                    messaging__client__id=self._lane,
                    organism__claim=claim,
                    organism__attempt=batch.attempts[row],
                ),
            )
            batch.traces[claim] = tracing.traceparent_of(span) or parent

    @contextmanager
    def call(self, batch: Batch) -> Iterator[None]:
        """Trace one call of the organism: a span with links to its tasks."""
        tracer = tracing.tracer()
        if not batch.traces or tracer is None:
            yield
            return
        from opentelemetry.trace import SpanKind

        span = tracer.start_span(
            "call organism",
            tracing.context_of(None),
            SpanKind.CLIENT,
            tracing.attributes_of(
                "call",
                "process",
                None,
                messaging__client__id=self._lane,
                messaging__batch__message_count=len(batch),
            ),
            tracing.links_to(batch.traces.values()),
        )
        try:
            yield
        finally:
            span.end()

    def settled(self, batch: Batch, outcomes: Outcomes, stale: Collection[str], started_ns: int) -> None:
        """End the spans of tasks whose outcomes are written.

        Args:
            batch: Holds the tasks.
            outcomes: How they ended.
            stale: Ids of those for which nothing was written.
            started_ns: When the write began, in nanoseconds of the epoch.
        """
        if not self._open:
            return
        for row, position in enumerate(outcomes.positions):
            self._end(
                batch.claims[position],
                "stale" if batch.ids[position] in stale else outcomes.causes[row],
                started_ns,
                organ=outcomes.organ_ids[row],
                error=outcomes.errors[row],
            )

    def released(self, batch: Batch, cause: str | None, started_ns: int) -> None:
        """End the spans of tasks that are handed back."""
        if self._open:
            for claim in batch.claims:
                self._end(claim, cause or "recalled", started_ns)

    def _end(
        self, claim: int, cause: str, started_ns: int, *, organ: str | None = None, error: str | None = None
    ) -> None:
        tracer, span = tracing.tracer(), self._open.pop(claim, None)
        if tracer is None or span is None:
            return
        from opentelemetry.trace import SpanKind, StatusCode

        now_ns = time.time_ns()
        tracer.start_span(
            "settle",
            tracing.context_of(tracing.traceparent_of(span)),
            SpanKind.CLIENT,
            tracing.attributes_of("settle", "settle", None, messaging__client__id=self._lane),
            start_time=started_ns,
        ).end(now_ns)
        span.set_attribute("organism.cause", cause)
        if organ is not None:
            span.set_attribute("organism.organ", organ)
        if cause != "completed":
            span.set_attribute("error.type", cause)
            span.set_status(StatusCode.ERROR, (error or "").partition("\n")[0][:200] or None)
        span.end(now_ns)
