"""More lanes and more replicas: throughput, and processor time a task by component.

On two cores more of them cannot be faster than the cores allow. What is measured is what each costs, and that
more of them cost no more a task: the arithmetic of docs/explanation/scale.md goes on from there.
"""

from __future__ import annotations

from typing import Any

from benchmarks import databases
from benchmarks.figures import Figure, Result
from benchmarks.options import Options
from benchmarks.parts.drain import ours
from benchmarks.peers.drained import PAYLOAD
from benchmarks.stack import Stack, running_stack

LANES = REPLICAS = (1, 2, 4)
WORK_MS = 5
KINDS: dict[str, tuple[str, Any, int]] = {
    "no-op": ("bench.noop", PAYLOAD, 50_000),
    f"{WORK_MS} ms of processor time": ("bench.busy", {"ms": WORK_MS}, 2000),
}
"""Type, params and number of the tasks of each kind."""
DATABASE_TASKS = 100_000
"""Tasks that are claimed and settled on one database, and on two."""


async def measure(stack: Stack, options: Options) -> Result:
    """Drain with each number of lanes and replicas, each number of replicas on a stack of its own.

    Then claim and settle on one database and on two.
    """
    runs: list[dict[str, Any]] = []
    for replicas in REPLICAS:
        async with running_stack(stack.say, {"ORGANISM_REPLICAS": str(replicas)}, join=False) as scaled:
            await ours(scaled, options.tasks(5000))  # the replicas have run their code once
            for kind, (task_type, params, tasks) in KINDS.items():
                for lanes in LANES:
                    scaled.say(f"{kind}: {lanes} lanes, {replicas} replicas")
                    report = await ours(scaled, options.tasks(tasks), task_type, params, lanes=lanes)
                    runs.append({"kind": kind, "lanes": lanes, "replicas": replicas, **report})
    servers = await databases.measure(stack, options.tasks(DATABASE_TASKS))
    return Result(
        [*(figure(run) for run in runs), *(database_figure(run) for run in servers)],
        {"runs": runs, "databases": servers},
    )


def figure(run: dict[str, Any]) -> Figure:
    """The rate of one run, with what it cost."""
    used = sorted(run["costs"]["processor_us"].items(), key=lambda item: -item[1])
    return Figure(
        f"scale: {run['kind']}, {run['lanes']} lanes, {run['replicas']} replicas",
        run["rate"],
        "tasks/s",
        note="µs a task: " + ", ".join(f"{name} {us:,.0f}" for name, us in used if us >= 1),
    )


def database_figure(run: dict[str, Any]) -> Figure:
    """The rate of claims and settlements on some databases, with what they cost."""
    number = run["databases"]
    return Figure(
        f"scale: claims and settlements only, {number} database{'s' if number > 1 else ''}",
        run["rate"],
        "tasks/s",
        note=f"µs a task: Postgres {run['postgres_us']:,.0f}, client {run['client_us']:,.0f}",
    )
