"""What traces cost: a drain without an exporter, and with one at sample rates of 0, 1 % and 100 %.

Each setting has a stack of its own, because lanes and replicas read the environment when they start. The
spans go to a collector in this process that throws them away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from benchmarks.figures import Figure, Result, median, spread
from benchmarks.options import Options
from benchmarks.parts.drain import ours
from benchmarks.stack import Stack, running_stack

TASKS = 30_000
RATES = {"0": "0", "1 %": "0.01", "100 %": "1"}
"""Sample rates, by how they are shown."""
AT_LEAST = {"0": 0.9, "1 %": 0.9}


async def measure(stack: Stack, options: Options) -> Result:
    """Drain with each setting, several times in turn, and compare with no exporter."""
    tasks = options.tasks(TASKS)
    rates: dict[str, list[float]] = {}
    with collector() as url:
        settings: dict[str, dict[str, str]] = {"off": {}} | {
            name: {
                "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": ratio,
            }
            for name, ratio in RATES.items()
        }
        for name, environment in settings.items():
            async with running_stack(stack.say, environment) as traced:
                await ours(traced, options.tasks(5000))  # the replica has run its code once
                stack.say(f"tracing {name}")
                for _ in range(options.rounds(3)):
                    rates.setdefault(name, []).append((await ours(traced, tasks))["rate"])
    figures = [
        Figure(
            f"tracing: rate of a drain at a sample rate of {name}, over that without an exporter",
            median(rates[name]) / median(rates["off"]),
            at_least=AT_LEAST.get(name),
            note=f"{spread(rates[name])} over {spread(rates['off'])} tasks/s",
        )
        for name in RATES
    ]
    return Result(figures, {"tasks": tasks, "rates": rates})


@contextmanager
def collector() -> Iterator[str]:
    """Yield the URL of an OTLP/HTTP endpoint that answers, and keeps nothing."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
