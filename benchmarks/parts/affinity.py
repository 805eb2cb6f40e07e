"""Tasks of 20 models on 2 replicas that keep 4 each: what it costs to load them, in three orders.

A load takes 0.2 s, a tenth of what one of some gigabytes takes, so that the plain order ends within minutes.
"""

from __future__ import annotations

import random
from typing import Any

from benchmarks.arrivals import Arrival, Client, client
from benchmarks.figures import Figure, Result, percentile
from benchmarks.options import Options
from benchmarks.stack import Stack

MODELS = 20
LOAD_S = 0.2
RATE = 60
SECONDS = 20.0
SKEW = 1.0
"""Of Zipf's law: the second model is asked for half as often as the first, and so on."""
SEED = 18
ORDERS: dict[str, tuple[str, list[str]]] = {
    "plain order": ("bench.models.plain", []),
    "calls by model": ("bench.models.calls", ["--affinity=1", "--affinity-keys=1000"]),
    "models in turn": ("bench.models.turns", ["--affinity=4", "--affinity-keys=4"]),
}
"""A type for each order, and its policy. In the second one every model has a turn, so lanes keep none
waiting: its calls go to a replica that has the model, as far as Serve knows one."""


async def measure(stack: Stack, options: Options) -> Result:
    """The same arrivals in each order: loads and latencies."""
    figures: list[Figure] = []
    samples: dict[str, Any] = {}
    loads: dict[str, float] = {}
    p99: dict[str, float] = {}
    await stack.clear()
    for task_type, policy in ORDERS.values():
        await stack.run("tasks", "policy", task_type, "--key-path=params.model", *policy)
    async with stack.dispatching(), client(stack.state.dsn) as one:
        for name, (task_type, _) in ORDERS.items():
            latencies = await arrive(one, options, task_type)
            loads[name] = 1000 * await loaded(stack, task_type) / len(latencies)
            p99[name] = percentile(latencies, 99)
            samples[name] = {"latency_ms": latencies, "loads_per_1000": loads[name]}
            note = f"p50 {percentile(latencies, 50):,.0f}, p99 {p99[name]:,.0f} ms of {len(latencies)} tasks"
            stack.say(f"{name}: {loads[name]:,.0f} loads a 1,000 tasks, {note}")
            figures.append(Figure(f"affinity, {name}: loads a 1,000 tasks", loads[name], "loads", note=note))
    for what, values in (("loads", loads), ("p99", p99)):
        note = ", ".join(f"{name} {value:,.0f}" for name, value in values.items())
        ratio = values["models in turn"] / values["plain order"]
        figures.append(Figure(f"affinity: {what} in turn over plain order", ratio, at_most=0.5, note=note))
    return Result(figures, samples)


async def arrive(one: Client, options: Options, task_type: str) -> list[float]:
    """Milliseconds of tasks that arrive at `RATE`, each of a model by Zipf's law."""
    chance = random.Random(SEED)  # noqa: S311
    names = [f"m{number:02}" for number in range(MODELS)]
    shares = [1 / (number + 1) ** SKEW for number in range(MODELS)]
    chosen = chance.choices(names, shares, k=int(RATE * SECONDS) + 1)

    def arrival(i: int) -> Arrival:
        return Arrival(task_type, {"model": chosen[i], "load_s": LOAD_S}, "model")

    return [task.latency_ms for task in await one.trickle(RATE, options.seconds(SECONDS), arrival)]


async def loaded(stack: Stack, task_type: str) -> int:
    """How many tasks had their model loaded for them."""
    query = "SELECT count(*) FROM tasks WHERE type = $1 AND (result ->> 'loaded')::bool"
    return int(await stack.db.fetchval(query, task_type))
