"""Short tasks among long ones: what 5 % tasks of 2 s do to tasks of 1 ms that arrive at the same rate."""

from __future__ import annotations

from typing import Any

from benchmarks.arrivals import Arrival, Client, client
from benchmarks.figures import Figure, Result, percentile
from benchmarks.options import Options
from benchmarks.stack import Stack

RATE = 200
LONG_EVERY = 20
"""Of so many tasks one is long."""
SHORT = {"seconds": 0.001}
LONG = {"seconds": 2.0}
SECONDS = 20.0
MIXES = {"two types": ("bench.short", "bench.long"), "one type": ("bench.mixed", "bench.mixed")}


async def measure(stack: Stack, options: Options) -> Result:
    """The short ones alone, then with the long ones; with types of their own, and of one type."""
    figures = []
    samples: dict[str, Any] = {}
    await stack.clear()
    async with stack.dispatching(), client(stack.state.dsn) as one:
        for name, (short, long) in MIXES.items():
            await latencies(one, Options(quick=True), short, None)  # everything has run its code once
            alone = await latencies(one, options, short, None)
            together = await latencies(one, options, short, long)
            samples[name] = {"alone_ms": alone, "together_ms": together}
            before, after = percentile(alone, 99), percentile(together, 99)
            title = f"mixed, {name}: short tasks' p99 with long over without"
            note = (
                f"p99 {after:.1f} over {before:.1f} ms; "
                f"p50 {percentile(together, 50):.1f} over {percentile(alone, 50):.1f} ms"
            )
            figures.append(Figure(title, after / before, at_most=3.0, note=note))
    return Result(figures, samples)


async def latencies(one: Client, options: Options, short: str, long: str | None) -> list[float]:
    """Milliseconds of the short tasks; without ``long`` every twentieth place stays empty."""

    def arrival(i: int) -> Arrival:
        if long and i % LONG_EVERY == 0:
            return Arrival(long, LONG, "long")
        return Arrival(short, SHORT, "short")

    rate = RATE if long else RATE * (1 - 1 / LONG_EVERY)
    seen = await one.trickle(rate, options.seconds(SECONDS), arrival)
    return [task.latency_ms for task in seen if task.kind == "short"]
