"""The span of a handler call, current while the handler runs, so that its own spans join the trace."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from organism_flows.blocks import tracing
from organism_flows.serve_apps.organism.execution.jobs import Invocation
from organism_flows.serve_apps.organism.handler_api.results import HandlerResults


class HandlerOutcome:
    """What the span says at its end."""

    results: HandlerResults = ()


async def in_span(run: Invocation, call: Awaitable[HandlerResults]) -> HandlerResults:
    """Wait for ``call``, which calls the handler of ``run``, within its span."""
    with handler_span(run) as outcome:
        outcome.results = await call
    return outcome.results


@contextmanager
def handler_span(run: Invocation) -> Iterator[HandlerOutcome]:
    """Trace one call of a handler, if one of its tasks is traced.

    The call of one task is a child of the task's span. That of several is a root with links to theirs.
    """
    ended = HandlerOutcome()
    traces = run.jobs[0].call.batch.traces
    parents = [parent for job in run.jobs if (parent := traces.get(job.claim))] if traces else []
    tracer = tracing.tracer() if parents else None
    if tracer is None:
        yield ended
        return
    from opentelemetry import context
    from opentelemetry.trace import StatusCode, set_span_in_context

    batch = run.jobs[0].call.batch
    kind = batch.types[run.jobs[0].position]
    alone = len(run.jobs) == 1
    around = tracing.context_of(parents[0] if alone else None)
    attributes = tracing.attributes_of(
        "handle",
        "process",
        kind,
        messaging__message__id=batch.ids[run.jobs[0].position] if alone else None,
        messaging__batch__message_count=None if alone else len(run.jobs),
        organism__organ=run.organ_id,
    )
    span = tracer.start_span(
        f"handle {kind}", around, attributes=attributes, links=[] if alone else tracing.links_to(parents)
    )
    token = context.attach(set_span_in_context(span, around))
    try:
        yield ended
    finally:
        context.detach(token)
        failed = [result.cause for result in ended.results if result.cause != "completed"]
        if failed:
            span.set_attribute("error.type", failed[0])
            span.set_status(StatusCode.ERROR)
        span.end()
