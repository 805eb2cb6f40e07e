"""Traces by OpenTelemetry: off unless the environment names an exporter, and then without any cost.

Nothing here imports OpenTelemetry before `tracer` has found an exporter in the environment. The standard
variables decide: OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER and so on. A process
that has set up OpenTelemetry by itself keeps its own provider.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span, Tracer

SYSTEM = "organism_flows"
"""Value of `messaging.system`."""
TRACEPARENT = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
"""Form of a W3C trace context of version 0."""
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_TIMEOUT_MS = 5000
LINKS_LIMIT = 128
"""Most links of a span: the default limit of the SDK, which would drop the others."""

logger = logging.getLogger("organism.tracing")
_is_traceparent = re.compile(TRACEPARENT).match


class _Process:
    """The tracer of this process, made once."""

    made = False
    tracer: Tracer | None = None


def exporters(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the exporters that the environment asks for. Empty means that nothing is traced."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    default = "otlp" if any(environment.get(name) for name in ENDPOINTS) else ""
    named = environment.get("OTEL_TRACES_EXPORTER", "").strip() or default
    return [name for each in named.split(",") if (name := each.strip()) and name != "none"]


def tracer(service: str = "organism") -> Tracer | None:
    """Return the tracer of this process. `None` means that nothing is traced.

    Args:
        service: `service.name` of the spans, unless OTEL_SERVICE_NAME gives another. The first call decides.
    """
    if not _Process.made:
        _Process.made = True
        if names := exporters(os.environ):
            _Process.tracer = _new_tracer(names, service)
    return _Process.tracer


def _new_tracer(names: list[str], service: str) -> Tracer | None:
    # Imported late: it takes 30 ms, a tenth of a short command.
    from importlib.metadata import version

    from opentelemetry import trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        provider = _provider(names, service)
        if provider is None:
            return None
        trace.set_tracer_provider(provider)
    return trace.get_tracer(SYSTEM, version("organism-flows"))


def _provider(names: Iterable[str], service: str) -> TracerProvider | None:
    from importlib.metadata import entry_points

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # The SDK puts OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES in, but what is given here goes before them.
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in given
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": service}))
    found = False
    for name in names:
        if name == "otlp":
            protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
                "OTEL_EXPORTER_OTLP_PROTOCOL"
            )
            name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
        points = entry_points(group="opentelemetry_traces_exporter", name=name)
        if not points:
            # Work goes on without traces: they are not worth a lane that does not start.
            logger.error("no exporter of traces is called %s; install the package that has it", name)
            continue
        provider.add_span_processor(BatchSpanProcessor(next(iter(points)).load()()))
        found = True
    return provider if found else None


def flush() -> None:
    """Send the spans that have ended. Blocks; for processes that may be killed after this."""
    if _Process.tracer is not None:
        from opentelemetry import trace

        if (force_flush := getattr(trace.get_tracer_provider(), "force_flush", None)) is not None:
            force_flush(FLUSH_TIMEOUT_MS)


def valid_traceparent(text: str | None) -> str | None:
    """Return a trace context as it is, or `None` if it is none."""
    return text if text is not None and _is_traceparent(text) else None


def current_traceparent() -> str | None:
    """Return the context of the current span; `None` means that there is none."""
    # Without this module no span can be current.
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    return traceparent_of(trace.get_current_span())


def traceparent_of(span: Span) -> str | None:
    """Return the context of a span as text; `None` means that it has none."""
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def context_of(traceparent: str | None) -> Context:
    """Return the context in which a span with this parent is started; without a valid one, a root."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if valid_traceparent(traceparent) is None:
        return Context()
    return TraceContextTextMapPropagator().extract({"traceparent": str(traceparent)}, Context())


def links_to(traceparents: Iterable[str]) -> list[Link]:
    """Return links to the spans of these contexts, the first `LINKS_LIMIT` of them."""
    from opentelemetry.trace import Link, get_current_span

    links: list[Link] = []
    for traceparent in traceparents:
        if len(links) >= LINKS_LIMIT:
            break
        links.append(Link(get_current_span(context_of(traceparent)).get_span_context()))
    return links


@contextmanager
def current(traceparent: str | None) -> Iterator[None]:
    """Have spans that begin within this block join the trace of ``traceparent``, if there is one."""
    if traceparent is None or tracer() is None:
        yield
        return
    from opentelemetry import context

    token = context.attach(context_of(traceparent))
    try:
        yield
    finally:
        context.detach(token)


def attributes_of(operation: str, kind: str, destination: str | None, **more: Any) -> dict[str, Any]:
    """Return the attributes of a span by the semantic conventions for messaging.

    Args:
        operation: Name of the operation.
        kind: Its type there: `send`, `receive`, `process` or `settle`.
        destination: Type of the tasks; `None` means that they are of several.
        more: Other attributes, with `__` for a dot in the name. Those that are `None` are left out.
    """
    found = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": destination,
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    return {name: value for name, value in found.items() if value is not None}
