"""Draining a table of no-op tasks, beside the peers and beside the floor."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from benchmarks.figures import Figure, Result, Unmeasured, median, number, spread
from benchmarks.options import Options
from benchmarks.stack import Stack, until

PGQUEUER = [
    {"batch": batch, "pool": pool, "processes": processes}
    for batch, pool, processes in [
        (100, 0, 1),
        (100, 4, 1),
        (500, 4, 1),
        (1000, 4, 1),
        (250, 0, 2),
        (500, 0, 2),
    ]
]
FLOOR = [{"loops": loops, "size": 500} for loops in (1, 2, 3)] + [{"loops": 2, "size": 1000}]
PROCRASTINATE = [{"concurrency": n} for n in (1, 10, 30)]
DBOS = [{"concurrency": 0, "poll": 0.01}, {"concurrency": 100, "poll": 0.001}]


async def measure(stack: Stack, options: Options) -> Result:
    """Ours and each fast peer in turn, several times; the slow ones once a setting, with fewer tasks."""
    tasks = options.tasks(100_000)
    rates: dict[str, list[float]] = {"ours": [], "pgqueuer": [], "per_call": [], "floor": []}
    await ours(stack, options.tasks(5000))  # the replica has run its code once
    stack.say("warmed up")
    best_pgqueuer = await best_of(stack, "pgqueuer_drain", tasks // 2, PGQUEUER)
    best_floor = await best_of(stack, "floor", tasks // 2, FLOOR)
    versions = {"pgqueuer": best_pgqueuer["version"]}
    for _ in range(options.rounds(3)):
        rates["ours"].append(await ours(stack, tasks))
        for name, best in (("pgqueuer_drain", best_pgqueuer), ("floor", best_floor)):
            report = await drained(stack, name, tasks, best["settings"])
            rates[name.removesuffix("_drain")].append(report["rate"])
        rates["per_call"].append((await drained(stack, "per_call", options.tasks(3000), {}))["rate"])
    slow = {
        "procrastinate": await best_of(stack, "procrastinate_drain", options.tasks(3000), PROCRASTINATE),
        "dbos": await best_of(stack, "dbos_drain", options.tasks(3000), DBOS),
        "prefect_runs": await drained(stack, "prefect_runs", options.tasks(100), {"cpus": 0.25}),
    }
    for name, best in slow.items():
        rates[name] = [best["rate"]]
        versions[name] = best["version"]
    settings = {name: best["settings"] for name, best in slow.items()}
    settings |= {"pgqueuer": best_pgqueuer["settings"], "floor": best_floor["settings"]}
    return Result(
        [
            ratio(rates, "pgqueuer", "PgQueuer at its best", 1.6),
            ratio(rates, "per_call", "the old dispatcher's shape", 60),
            ratio(rates, "floor", "the floor", 0.6),
            ratio(rates, "procrastinate", "Procrastinate"),
            ratio(rates, "dbos", "DBOS"),
            ratio(rates, "prefect_runs", "a Prefect task run an item"),
        ],
        {"tasks": tasks, "rates": rates, "settings": settings, "versions": versions},
    )


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
    if foreign := name.endswith("_drain"):
        dsn = await stack.fresh_database("peer")
    else:
        dsn = stack.state.dsn
        if name != "prefect_runs":
            await stack.load(tasks)
    return await stack.peer(name, dsn, tasks, foreign=foreign, **settings)


async def ours(stack: Stack, tasks: int) -> float:
    """One drain through the full path; tasks/s from the first claim to the last outcome stored."""
    await stack.clear()
    await stack.load(tasks)
    running = asyncio.create_task(stack.run("dispatch", "--until-empty"))
    try:
        first = await first_claim(stack, running)
        await running
    finally:
        running.cancel()
    if (done := await stack.completed()) != tasks:
        raise Unmeasured(f"{done} of {tasks} tasks were completed")
    last = await stack.db.fetchval("SELECT max(finished_at) FROM tasks")
    rate = tasks / (last - first).total_seconds()
    stack.say(f"ours: {rate:,.0f} tasks/s")
    return float(rate)


async def first_claim(stack: Stack, running: asyncio.Task[Any]) -> datetime:
    """When the first claim was made, by the database's clock: polled, because settling erases it."""

    async def look() -> Any:
        if running.done():
            running.result()
            raise Unmeasured("the dispatch run ended without a claim")
        return await stack.db.fetchval("SELECT min(locked_at) FROM tasks WHERE status = 'running'")

    claimed: datetime = await until(look, "a claim", every_s=0.002)
    return claimed
