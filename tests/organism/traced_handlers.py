"""Handlers with spans of their own, as a user's would have them, that log through their context."""

from opentelemetry import trace

tracer = trace.get_tracer("user")


async def on_the_loop(task, context):
    with tracer.start_as_current_span("own loop"):
        context.logger.info("looked at %s", task["params"])
    return {}


def in_a_thread(task, context):
    with tracer.start_as_current_span("own thread"):
        context.logger.warning("half way")
    if task["params"].get("fail"):
        raise ValueError("as it was asked to")
    return {}


async def many(tasks):
    with tracer.start_as_current_span("own many"):
        return [{} for _ in tasks]
