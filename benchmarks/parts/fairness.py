"""Keys that share: one with 100,000 tasks among 1,000, at most two tasks of each at once.

What the tasks of the others notice of it, what the limits cost, and what a claim costs when many keys wait.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg

from benchmarks import costs
from benchmarks.arrivals import Arrival, Client, client
from benchmarks.costs import Meter
from benchmarks.figures import Figure, Result, Unmeasured, median, number, percentile, spread
from benchmarks.options import Options
from benchmarks.peers.floor import completed
from benchmarks.stack import ADD, LOAD_TIMEOUT_S, Stack, until
from organism_flows.blocks.queue import Limit, Queue, migrate

KEYS = 1000
"""One of them has the backlog."""
BACKLOG = 100_000
AT_ONCE = 2
LIMIT = Limit(name="bench", kind="running", by_key=True, amount=AT_ONCE)
WIDE = Limit(name="bench", kind="running", by_key=True, amount=10_000)
"""A limit that is counted and never reached: what a limit costs, apart from what it keeps back."""
DRAINS = {"free": None, "wide": WIDE, "limited": LIMIT}
RATE = 200
"""Tasks a second of the other keys, each key in turn."""
SECONDS = 10.0
HANDLER_S = 0.02
OTHERS = 50_000
"""No-ops of the other keys in a drain, which ends when so many tasks are done."""
PEERS = {
    "graphile": ("graphile_fair", {"concurrency": 24}, 5000),
    "pgqueuer": ("pgqueuer_fair", {"batch": 100}, 5000),
}
"""Program, settings and tasks of a drain of each peer."""
CLAIM_SIZE = 100
CLAIMS = 60
MANY_KEYS = 100_000
WAITING = 200_000
BEGUN = "SELECT count(*) FROM tasks WHERE key = 'big' AND status = 'completed'"
NTH = "SELECT finished_at FROM tasks WHERE status = 'completed' ORDER BY finished_at OFFSET $1 LIMIT 1"


async def measure(stack: Stack, options: Options) -> Result:
    """Ours with and without the key, and with and without limits, in turn; then the peers; then claims."""
    systems: dict[str, dict[str, Any]] = {"ours": await ours(stack, options)}
    for name, (program, settings, tasks) in PEERS.items():
        try:
            systems[name] = await peer(stack, options, program, settings, options.tasks(tasks))
        except Unmeasured as error:
            stack.say(f"skipped {name}: {error}")
    claims = {
        keys: await claims_among(stack, options.tasks(keys), options.tasks(WAITING))
        for keys in (KEYS, MANY_KEYS)
    }
    figures = [figure for name, each in systems.items() for figure in figures_of(name, each)]
    return Result(
        [*figures, claim_figure(claims[KEYS], claims[MANY_KEYS])],
        {"systems": systems, "claim_ms": {str(keys): took for keys, took in claims.items()}},
    )


TITLES = {
    "ours": "",
    "graphile": " of graphile-worker, a named queue for each key",
    "pgqueuer": " of PgQueuer, an entrypoint for each key",
}


def figures_of(name: str, each: dict[str, Any]) -> list[Figure]:
    """The ratios of one system; the targets are for ours."""
    mine, title = name == "ours", TITLES[name]
    alone, beside = each["alone_ms"], each["beside_ms"]
    free, limited = each["free"], each["limited"]
    figures = [
        Figure(
            f"fairness: others' p99{title} beside a key with {BACKLOG:,} tasks, over that without it",
            percentile(beside, 99) / percentile(alone, 99),
            at_most=1.3 if mine else None,
            note=f"p99 {number(percentile(beside, 99))} over {number(percentile(alone, 99))} ms; "
            f"p50 {number(percentile(beside, 50))} over {number(percentile(alone, 50))} ms",
        ),
        rate_figure(f"fairness: rate{title} with two of each key at once, over that without limits",
                    limited, free),
    ]  # fmt: skip
    if mine:
        wide = "fairness: rate with limits that are never reached, over that without"
        figures.append(rate_figure(wide, each["wide"], free, at_least=0.9))
        for name, title in (
            ("wide", "limits that are never reached"),
            ("limited", "two of each key at once"),
        ):
            figures.append(cost_figure(title, each[f"{name}_us"], each["free_us"]))
    return figures


def rate_figure(title: str, rates: list[float], free: list[float], at_least: float | None = None) -> Figure:
    """Rates over those without limits."""
    return Figure(
        title,
        median(rates) / median(free),
        at_least=at_least,
        note=f"{number(median(rates))} ({spread(rates)}) over "
        f"{number(median(free))} ({spread(free)}) tasks/s",
    )


def cost_figure(title: str, used: list[dict[str, float]], free: list[dict[str, float]]) -> Figure:
    """Processor time of a task over that without limits."""
    return Figure(
        f"fairness: processor time of a no-op with {title}, over that without",
        median([sum(one.values()) for one in used]) / median([sum(one.values()) for one in free]),
        note="; ".join(
            f"{role} {number(median([one[role] for one in used]))} over "
            f"{number(median([one[role] for one in free]))}"
            for role in (costs.POSTGRES, costs.LANE, costs.REPLICA)
        )
        + " µs",
    )


def claim_figure(few: list[float], many: list[float]) -> Figure:
    """What a claim costs when many keys wait."""
    return Figure(
        f"fairness: claim of {CLAIM_SIZE} with limits, {MANY_KEYS:,} waiting keys over {KEYS:,}",
        median(many) / median(few),
        at_most=1.5,
        note=f"{median(many):.2f} ({spread(many)}) over {median(few):.2f} ({spread(few)}) ms",
    )


# Ours


async def ours(stack: Stack, options: Options) -> dict[str, Any]:
    """Latencies of the others, and rates and processor times of drains, each in turn."""
    names = ("alone_ms", "beside_ms", *DRAINS, *(f"{name}_us" for name in DRAINS))
    found: dict[str, Any] = {name: [] for name in names}
    for _ in range(options.rounds(2)):
        await latencies(stack, options, found)
    for _ in range(options.rounds(2)):
        for name, limit in DRAINS.items():
            rate, used = await drained(stack, options, name, limit)
            found[name].append(rate)
            found[f"{name}_us"].append(used)
    return found


@asynccontextmanager
async def limits(stack: Stack, limit: Limit | None = LIMIT) -> AsyncIterator[None]:
    """With the limit, on an empty queue, for the length of a block."""
    await stack.clear()
    async with Queue(stack.state.dsn, connections=1) as queue:
        if limit:
            await queue.operator.set_limit(limit)
        try:
            yield
        finally:
            if limit:
                await queue.operator.remove_limit(limit.name)


async def latencies(stack: Stack, options: Options, found: dict[str, Any]) -> None:
    """Milliseconds of the others' tasks, without the key that has a backlog and then beside it."""

    async def trickle(one: Client, seconds: float) -> list[float]:
        params = {"seconds": HANDLER_S}
        seen = await one.trickle(
            RATE, seconds, lambda i: Arrival("bench.short", params, "others", f"k{i % (KEYS - 1):06}")
        )
        return [task.latency_ms for task in seen]

    async with limits(stack), stack.dispatching(), client(stack.state.dsn) as one:
        await trickle(one, 2)  # everything has run its code once
        found["alone_ms"] += await trickle(one, options.seconds(SECONDS))
        await stack.load(options.tasks(BACKLOG), "bench.short", {"seconds": HANDLER_S}, key="big")
        await until(lambda: stack.db.fetchval(BEGUN), "a task of the backlog")
        found["beside_ms"] += await trickle(one, options.seconds(SECONDS))
    await stack.clear()


async def drained(
    stack: Stack, options: Options, name: str, limit: Limit | None
) -> tuple[float, dict[str, float]]:
    """Tasks a second between two moments of a drain, and their processor time by process."""
    tasks = options.tasks(OTHERS)
    begin = tasks // 10
    async with limits(stack, limit):
        await stack.load(options.tasks(BACKLOG), key="big")
        await stack.load(int(1.2 * tasks), keys=KEYS - 1)
        meter = Meter(stack, stack.state.dsn)
        async with stack.dispatching() as process:
            meter.watch(costs.FLOW, process.pid)
            meter.watch(costs.LANE, *[row["pid"] for row in await stack.db.fetch("SELECT pid FROM lanes")])
            first = await until(lambda: finished(stack, begin), f"{begin} tasks", process)
            await meter.begin()
            before = await stack.completed()
            last = await until(lambda: finished(stack, tasks), f"{tasks} tasks", process, every_s=0.1)
            meter.read_processes()
            done = await stack.completed() - before
        used = (await meter.finish(done))["processor_us"]
    rate = (tasks - begin) / (last - first).total_seconds()
    stack.say(f"{name}: {rate:,.0f} tasks/s, {sum(used.values()):.0f} µs a task")
    return rate, used


async def finished(stack: Stack, number: int) -> Any:
    """When so many tasks were done; None before."""
    return await stack.db.fetchval(NTH, number - 1)


# The peers


async def peer(stack: Stack, options: Options, program: str, settings: dict[str, int], tasks: int) -> Any:
    """The same of a peer: steadily without and with the backlog, then at once without and with limits."""
    found: dict[str, Any] = {}
    arrivals = int(RATE * options.seconds(SECONDS))
    for name, backlog in (("alone_ms", 0), ("beside_ms", options.tasks(BACKLOG))):
        steady = {"rate": RATE, "backlog": backlog, "limited": 1}
        report = await run(stack, program, arrivals, **steady, **settings)
        found[name] = report["latencies_ms"]
    for name, limited in (("free", 0), ("limited", 1)):
        at_once = {"rate": 0, "backlog": options.tasks(BACKLOG), "limited": limited}
        report = await run(stack, program, tasks, **at_once, **settings)
        found[name] = [report["rate"]]
    return found | {"version": report["version"], "settings": settings}


async def run(stack: Stack, program: str, tasks: int, **settings: int) -> Any:
    """A report of a peer, in a database of its own."""
    await stack.clear()
    dsn = await stack.fresh_database("peer")
    return await stack.peer(program, dsn, tasks, foreign=True, keys=KEYS - 1, **settings)


# Claims


async def claims_among(stack: Stack, keys: int, tasks: int) -> list[float]:
    """Milliseconds of each claim under the limit, in a database where tasks of so many keys wait."""
    dsn = await stack.fresh_database("bench_keys")
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(ADD, "bench.noop", "{}", tasks, keys, None, timeout=LOAD_TIMEOUT_S)
        await connection.execute("VACUUM (ANALYZE) tasks", timeout=LOAD_TIMEOUT_S)
        await connection.execute("CHECKPOINT", timeout=LOAD_TIMEOUT_S)
        async with Queue(dsn, connections=1) as queue:
            await queue.operator.set_limit(LIMIT)
            lane = f"fairness-{uuid4().hex[:8]}"
            await queue.leases.register(lane)
            lines = queue.claims.lines(lane)
            took = []
            for _ in range(CLAIMS):
                began = time.perf_counter()
                batch = await lines.claim(CLAIM_SIZE, lambda _: CLAIM_SIZE)
                took.append((time.perf_counter() - began) * 1000)
                if len(batch) != CLAIM_SIZE:
                    raise Unmeasured(f"a claim of {CLAIM_SIZE} got {len(batch)}")
                await queue.claims.settle(lane, batch, completed(batch))
        return took[5:]  # the first ones plan and fill caches
    finally:
        await connection.close()
        await stack.db.execute('DROP DATABASE "bench_keys" WITH (FORCE)')
