"""Cost and rate of checkpoints and streams, and how late thousands of readers of streams get their chunks."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from benchmarks import costs
from benchmarks.costs import Meter
from benchmarks.figures import Figure, Result, Unmeasured, median, number, percentile, spread
from benchmarks.options import Options
from benchmarks.parts.drain import ours
from benchmarks.parts.gateway import running, use
from benchmarks.stack import Stack, until
from organism_flows.blocks.queue import Batch, Queue
from organism_flows.blocks.task_report import Chunks, TaskReport

TASKS = 20_000
TYPES = {
    "nothing": "bench.noop",
    "a context that is not used": "bench.unused",
    "five checkpoints": "bench.saves",
    "five chunks": "bench.emits",
}
"""Types of tasks, by what their handlers take or report."""
AT_LEAST = {"a context that is not used": 0.95}
LONG_TASKS = 1000
"""Tasks that run at once, each of which saves one state after the other and waits until it is durable."""
ENDLESS = 10**9
"""Units of each."""
SAVING_S = 10.0
AT_WORK = "SELECT count(*) >= $1 FROM task_checkpoints"
SAVED = "SELECT sum(step)::bigint FROM task_checkpoints"
READERS = 2000
SECONDS = 30.0
LANE = "benchmark"
AT_ONCE = 1000
"""Reports in a statement, as a lane has them."""


async def measure(stack: Stack, options: Options) -> Result:
    """Drain tasks that report nothing, save or emit, in turn; wait for checkpoints; follow streams."""
    tasks = options.tasks(TASKS)
    rates: dict[str, list[float]] = {name: [] for name in TYPES}
    for kind in TYPES.values():
        await ours(stack, options.tasks(2000), kind)  # the replica has run its code once
    for _ in range(options.rounds(3)):
        for name, kind in TYPES.items():
            rates[name].append((await ours(stack, tasks, kind))["rate"])
    figures = [
        Figure(
            f"reports: rate of a drain with {name}, over that of handlers that take no context",
            median(rates[name]) / median(rates["nothing"]),
            at_least=AT_LEAST.get(name),
            note=f"{spread(rates[name])} over {spread(rates['nothing'])} tasks/s",
        )
        for name in list(TYPES)[1:]
    ]
    figures += await durable(stack, options)
    late, busy = await read(stack, READERS, options.seconds(SECONDS))
    for percent in (50, 99):
        figures.append(
            Figure(
                f"reports: {READERS:,} readers, a chunk a second each, p{percent} of how late it came",
                percentile(late, percent),
                "ms",
                note=f"{len(late):,} chunks; the gateway used {median(busy):.0f} % of a processor",
            )
        )
    return Result(figures, {"tasks": tasks, "rates": rates, "late_ms": late[:: max(len(late) // 5000, 1)]})


async def durable(stack: Stack, options: Options) -> list[Figure]:
    """Return how many checkpoints are durable a second while tasks wait for each of theirs, and their cost.

    No two of them share a write: a task has none on its way when it makes the next.
    """
    rates: list[float] = []
    used: list[dict[str, float]] = []
    for _ in range(options.rounds(3)):
        await stack.clear()
        await stack.load(LONG_TASKS, "bench.durable", {"units": ENDLESS})
        meter = Meter(stack, stack.state.dsn)
        async with stack.dispatching() as process:
            meter.watch(costs.FLOW, process.pid)
            meter.watch(costs.LANE, *[row["pid"] for row in await stack.db.fetch("SELECT pid FROM lanes")])
            await until(
                lambda: stack.db.fetchval(AT_WORK, LONG_TASKS), f"{LONG_TASKS} tasks at work", process
            )
            before, began = await stack.db.fetchval(SAVED), time.monotonic()
            await meter.begin()
            await asyncio.sleep(options.seconds(SAVING_S))
            meter.read_processes()
            saved = await stack.db.fetchval(SAVED) - before
            rates.append(saved / (time.monotonic() - began))
        used.append((await meter.finish(saved))["processor_us"])
        stack.say(f"{rates[-1]:,.0f} durable checkpoints/s, {sum(used[-1].values()):.0f} µs each")
    await stack.clear()
    costs_of = {name: median([one[name] for one in used]) for name in used[0]}
    parts = sorted(costs_of.items(), key=lambda item: -item[1])
    return [
        Figure(
            f"reports: durable checkpoints, by {LONG_TASKS:,} tasks that wait for each of theirs",
            median(rates),
            "/s",
            at_least=10_000,
            note=spread(rates),
        ),
        Figure(
            "reports: processor time of a durable checkpoint, all processes",
            sum(costs_of.values()),
            "µs",
            note=", ".join(f"{name} {number(each)}" for name, each in parts if each >= 0.1),
        ),
    ]


async def read(stack: Stack, readers: int, seconds: float) -> tuple[list[float], list[float]]:
    """Return how late each chunk reached its reader, in milliseconds, and what the gateway used, in percent.

    Each reader has a task of its own, so that none shares what is read for another.
    """
    await stack.clear()
    await stack.load(readers)
    late: list[float] = []
    busy: list[float] = []
    limits = {
        "ORGANISM_GATEWAY_OPEN": "true",
        "ORGANISM_GATEWAY_WAITS": str(readers),
        "ORGANISM_GATEWAY_CONNECTIONS": str(2 * readers),
    }
    async with (
        running(stack, "streams", "organism_flows.serve_apps.gateway", env=limits) as (url, process),
        Queue(stack.state.dsn) as queue,
    ):
        await queue.leases.register(LANE)
        batch = await queue.claims.claim(LANE, readers)
        if len(batch) != readers:
            raise Unmeasured(f"{len(batch)} of {readers} tasks were claimed")
        begun: set[str] = set()
        following = [asyncio.create_task(follow(url, task, late, begun)) for task in batch.ids]
        try:
            await until(lambda: asyncio.sleep(0, len(begun) == readers), f"{readers} readers")
            with use(process, busy):
                await emit(queue, batch, seconds)
                await until(lambda: asyncio.sleep(0, len(late) >= readers * int(seconds)), "the last chunk")
        finally:
            for one in following:
                one.cancel()
            await asyncio.wait(following)
    await stack.clear()
    return late, busy


async def emit(queue: Queue, batch: Batch, seconds: float) -> None:
    """Emit a chunk a second for each task, spread over the second, with the time at which it is written."""
    started = time.monotonic()
    for second in range(1, int(seconds) + 1):
        await queue.leases.renew(LANE)
        for begin in range(0, len(batch), AT_ONCE):
            chunks = Chunks([repr(time.time())], last=second)
            part = batch.take(range(begin, min(begin + AT_ONCE, len(batch))))
            await queue.reports.record(part, [TaskReport(n, chunks=chunks) for n in range(len(part))])
            share = (begin + AT_ONCE) / len(batch)
            await asyncio.sleep(max(started + second - 1 + share - time.monotonic(), 0))


async def follow(url: str, task_id: str, late: list[float], begun: set[str]) -> None:
    """Read a stream by hand: thousands of connections of httpx would take more than the gateway."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /api/tasks/{task_id}/stream HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        name = b""
        while line := await reader.readline():
            if line.startswith(b"event: "):
                name = line
            elif line.startswith(b"data: ") and name == b"event: begin\n":
                begun.add(task_id)
            elif line.startswith(b"data: "):
                late.append(1000 * (time.time() - float(line[6:])))
    finally:
        writer.close()
