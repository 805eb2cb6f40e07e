"""Draining a table of no-op tasks, beside the peers and beside the floor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import datetime
from typing import Any

from benchmarks import costs
from benchmarks.costs import Meter
from benchmarks.figures import Figure, Result, Unmeasured, median, number, spread
from benchmarks.options import Options
from benchmarks.stack import Stack, until

PGQUEUER = [
    {"batch": batch, "pool": pool, "processes": processes}
    for batch, pool, processes in [
        (500, 4, 1),
        (1000, 4, 1),
        (250, 0, 2),
    ]
]
FLOOR = [{"loops": loops, "size": 500} for loops in (1, 2, 3)] + [{"loops": 2, "size": 1000}]
PROCRASTINATE = [{"concurrency": n} for n in (1, 10, 30)]
GRAPHILE = [
    {"size": size, "concurrency": concurrency, "delay": delay, "processes": processes}
    for size, concurrency, delay, processes in [
        (500, 24, 0, 1),
        (2000, 24, 0, 1),
        (2000, 100, 0, 1),
        (2000, 100, 5, 1),
        (2000, 100, 0, 2),
    ]
]
PGBOSS = [
    {"size": size, "concurrency": concurrency, "processes": processes}
    for size, concurrency, processes in [(1000, 2, 1), (2000, 2, 1), (1000, 1, 2)]
]
PGBOSS_RESULTS = [choice | {"results": 1} for choice in PGBOSS[:2]]
PGMQ = [
    {"loops": loops, "size": size, "processes": processes}
    for loops, size, processes in [(2, 500, 1), (4, 500, 1), (1, 1000, 2)]
]
AWA = [{"workers": workers, "batch": batch} for workers, batch in [(100, 0), (500, 0), (500, 500)]]
CONSUMER = [{"concurrency": threads, "prefetch": prefetch} for threads, prefetch in [(4, 4), (20, 4)]]
TASKS = 50_000
FAST: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "pgqueuer": ("pgqueuer_drain", PGQUEUER),
    "graphile": ("graphile_drain", GRAPHILE),
    "pgboss": ("pgboss_drain", PGBOSS),
    "pgboss_results": ("pgboss_drain", PGBOSS_RESULTS),
    "pgmq": ("pgmq_drain", PGMQ),
    "floor": ("floor", FLOOR),
}
"""Programs and settings of those that take turns with ours."""
DBOS = [{"concurrency": 0, "poll": 0.01}, {"concurrency": 100, "poll": 0.001}]
SLOW: dict[str, tuple[str, int, list[dict[str, Any]]]] = {
    "awa": ("awa_drain", 10_000, AWA),
    "procrastinate": ("procrastinate_drain", 1000, PROCRASTINATE),
    "dbos": ("dbos_drain", 1000, DBOS),
    "consumer": ("task_consumer", 1000, CONSUMER),
    "prefect_runs": ("prefect_runs", 100, [{"cpus": 0.25}]),
}
"""Programs, tasks and settings of those that drain once a setting."""


async def measure(stack: Stack, options: Options) -> Result:
    """Ours and each fast peer in turn, several times; the slow ones once a setting, with fewer tasks."""
    tasks = options.tasks(TASKS)
    await ours(stack, options.tasks(5000))  # the replica has run its code once
    stack.say("warmed up")
    best: dict[str, Any] = {}
    for name, (program, choices) in FAST.items():
        await keep(stack, best, name, best_of(stack, program, tasks // 3, choices))
    reports: dict[str, list[Any]] = {}
    for _ in range(options.rounds(3)):
        reports.setdefault("ours", []).append(await ours(stack, tasks))
        for name in [name for name in FAST if name in best]:
            settings = best[name]["settings"]
            reports.setdefault(name, []).append(await drained(stack, FAST[name][0], tasks, settings))
        reports.setdefault("per_call", []).append(await drained(stack, "per_call", options.tasks(3000), {}))
    for name, (program, few, choices) in SLOW.items():
        await keep(stack, best, name, best_of(stack, program, options.tasks(few), choices))
        if name in best:
            reports[name] = [best[name]]
    rates = {name: [report["rate"] for report in each] for name, each in reports.items()}
    return Result(
        [
            *(ratio(rates, name, title, at_least) for name, title, at_least in RATIOS if name in rates),
            *cost_figures(reports["ours"]),
        ],
        {
            "tasks": tasks,
            "rates": rates,
            "settings": {name: report["settings"] for name, report in best.items()},
            "versions": {name: report["version"] for name, report in best.items()},
            "costs": {name: middle_costs(each) for name, each in reports.items()},
        },
    )


RATIOS = [
    ("graphile", "graphile-worker batched", 1.5),
    ("pgqueuer", "PgQueuer at its best", 2.5),
    ("pgboss_results", "pg-boss that stores results", None),
    ("pgboss", "pg-boss in batches", None),
    ("pgmq", "pgmq", None),
    ("awa", "awa", None),
    ("floor", "the floor", 0.6),
    ("per_call", "the old dispatcher's shape", 100),
    ("consumer", "Ray Serve's task_consumer", None),
    ("procrastinate", "Procrastinate", None),
    ("dbos", "DBOS", None),
    ("prefect_runs", "a Prefect task run an item", None),
]
"""Each peer, and the ratio that is wanted."""


async def keep(stack: Stack, best: dict[str, Any], name: str, reported: Awaitable[Any]) -> None:
    """Keep the report of a peer; say why there is none."""
    try:
        best[name] = await reported
    except Unmeasured as error:
        stack.say(f"skipped {name}: {error}")


def cost_figures(reports: list[Any]) -> list[Figure]:
    """Our processor time a task, WAL and dead rows."""
    each = [sum(report["costs"]["processor_us"].values()) for report in reports]
    middle = middle_costs(reports)
    parts = sorted(middle["processor_us"].items(), key=lambda item: -item[1])
    note = ", ".join(f"{name} {number(used)}" for name, used in parts)
    return [
        Figure("drain: processor time of a no-op, all processes", median(each), "µs", at_most=28, note=note),
        Figure("drain: WAL of a no-op", middle["wal_bytes"], "bytes"),
        Figure("drain: row versions that die of a no-op", middle["dead_rows"], "rows"),
    ]


def middle_costs(reports: list[Any]) -> dict[str, Any]:
    """Medians of the costs of several drains."""
    each = [report["costs"] for report in reports]
    names = each[0]["processor_us"]
    return {
        "processor_us": {name: median([one["processor_us"][name] for one in each]) for name in names},
        "wal_bytes": median([one["wal_bytes"] for one in each]),
        "dead_rows": median([one["dead_rows"] for one in each]),
    }


def ratio(rates: dict[str, list[float]], peer: str, name: str, at_least: float | None = None) -> Figure:
    """Our median rate over a peer's."""
    mine, theirs = rates["ours"], rates[peer]
    note = f"{number(median(mine))} ({spread(mine)}) over {number(median(theirs))} ({spread(theirs)}) tasks/s"
    return Figure(f"drain: ours over {name}", median(mine) / median(theirs), at_least=at_least, note=note)


async def best_of(stack: Stack, name: str, tasks: int, choices: list[dict[str, Any]]) -> Any:
    """The report of the fastest of some settings."""
    reports = [await drained(stack, name, tasks, settings) for settings in choices]
    return max(reports, key=lambda report: report["rate"])


async def drained(stack: Stack, name: str, tasks: int, settings: dict[str, Any]) -> Any:
    """One drain by a peer: on our table, or in a database of its own."""
    await stack.clear()
    if foreign := name.endswith(("_drain", "_consumer")):
        dsn = await stack.fresh_database("peer")
    else:
        dsn = stack.state.dsn
        if name != "prefect_runs":
            await stack.load(tasks)
    return await stack.peer(name, dsn, tasks, foreign=foreign, **settings)


async def ours(stack: Stack, tasks: int, type: str = "bench.noop") -> dict[str, Any]:
    """Costs of a drain through the full path, and tasks/s from the first claim to the last outcome stored."""
    await stack.clear()
    await stack.load(tasks, type)
    meter = Meter(stack, stack.state.dsn)
    process = stack.start("dispatch", "--until-empty", "--json")
    running = asyncio.create_task(stack.output(process, "dispatch"))
    try:
        first = await first_claim(stack, running)
        meter.watch(costs.FLOW, process.pid)
        meter.watch(costs.LANE, await stack.db.fetchval("SELECT pid FROM lanes"))
        await meter.begin()
        await meter.until_ended(costs.LANE)
        await running
    finally:
        running.cancel()
    if (done := await stack.completed()) != tasks:
        raise Unmeasured(f"{done} of {tasks} tasks were completed")
    last = await stack.db.fetchval("SELECT max(finished_at) FROM tasks")
    rate = tasks / (last - first).total_seconds()
    stack.say(f"ours: {rate:,.0f} tasks/s")
    return {"rate": float(rate), "costs": await meter.finish(tasks)}


async def first_claim(stack: Stack, running: asyncio.Task[Any]) -> datetime:
    """When the first claim was made, by the database's clock: polled, because settling erases it."""

    async def look() -> Any:
        if running.done():
            running.result()
            raise Unmeasured("the dispatch run ended without a claim")
        return await stack.db.fetchval("SELECT min(locked_at) FROM tasks WHERE status = 'running'")

    claimed: datetime = await until(look, "a claim", every_s=0.002)
    return claimed
