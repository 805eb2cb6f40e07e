"""Beside Ray Serve's own `@serve.task_consumer`: single tasks, and kills while tasks arrive.

Both run the same handlers, one replica, on the same machine; neither is under load from the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.arrivals import client
from benchmarks.figures import Figure, Result, Unmeasured, percentile
from benchmarks.options import Options
from benchmarks.parts.trickle import NOOP
from benchmarks.stack import Stack

RATES = {50: 10.0}
"""Seconds by tasks a second. The peer drains about 200 a second on two quiet cores."""
KILL_RATE = 50.0
KILL_S = 15.0
"""How long tasks arrive; after a third of it a process is killed."""
VISIBILITY_S = 10
"""Visibility timeout of the peer. Its default is an hour: so long an interrupted task would wait."""
PATIENCE_S = 120.0
VICTIMS = {"replica": "replica", "lane": "replica", "Postgres": "broker"}
"""Whom we kill on our side, and who stands for it at the peer, whose worker is a thread of the replica."""
INSERT = "INSERT INTO tasks (type, params) VALUES ('bench.marked', $1::text::jsonb)"


async def measure(stack: Stack, options: Options) -> Result:
    """Single tasks, then each kill, ours and the peer's in turn."""
    figures = []
    samples: dict[str, Any] = {"singles": {}, "kills": {}}
    for rate, seconds in RATES.items():
        count = int(rate * options.seconds(seconds))
        mine = await singles(stack, rate, count / rate)
        theirs = (await consumer(stack, "trickle", count, rate=rate))["settings"]["samples"]
        samples["singles"][str(rate)] = {"ours_ms": mine, "consumer_ms": theirs}
        for percent in (50, 99):
            one, other = percentile(mine, percent), percentile(theirs, percent)
            name = f"single tasks {rate}/s: our p{percent} over task_consumer's"
            figures.append(Figure(name, one / other, note=f"{one:.1f} over {other:.1f} ms, {count} tasks"))
    count = int(KILL_RATE * max(options.seconds(KILL_S), 12))
    for victim, counterpart in VICTIMS.items():
        for title, killed in (
            (f"ours, {victim}", await kill(stack, victim, count)),
            (f"task_consumer, {counterpart}", await kill_consumer(stack, counterpart, count)),
        ):
            stack.say(f"{title}: {killed}")
            samples["kills"][title] = killed
    for title, killed in samples["kills"].items():
        note = (
            f"{killed['sent']} sent, {killed['refused']} refused; {killed['twice']} run more than once; "
            f"longest silence {killed['silence_s']:.1f} s; "
            f"the last task sent before ran {killed['straggler_s']:.1f} s after"
        )
        lost = float(killed["lost"])
        figures.append(Figure(f"kill of {title}: tasks lost", lost, "tasks", at_most=limit(title), note=note))
    return Result(figures, samples)


def limit(title: str) -> float | None:
    """Ours may lose none."""
    return 0 if title.startswith("ours") else None


async def singles(stack: Stack, rate: float, seconds: float) -> list[float]:
    """Latency of our single tasks, in milliseconds."""
    await stack.clear()
    async with stack.dispatching(), client(stack.state.dsn) as one:
        await one.trickle(50, 2, lambda _: NOOP)
        return [task.latency_ms for task in await one.trickle(rate, seconds, lambda _: NOOP)]


async def consumer(stack: Stack, mode: str, tasks: int, **settings: Any) -> Any:
    """Run the peer in one of its modes."""
    dsn = await stack.fresh_database("peer")
    return await stack.peer("task_consumer", dsn, tasks, foreign=True, mode=mode, **settings)


async def kill_consumer(stack: Stack, victim: str, count: int) -> dict[str, Any]:
    """Kill the peer's process; its Redis keeps an append-only file, synced each second."""
    settings = {"victim": victim, "rate": KILL_RATE, "visibility": VISIBILITY_S, "durable": 1}
    samples = (await consumer(stack, "kill", count, **settings))["settings"]["samples"]
    sent = {int(number): at for number, at in samples["sent"].items()}
    return outcome(sent, samples["killed"], samples["starts"], samples["refused"])


async def kill(stack: Stack, victim: str, count: int) -> dict[str, Any]:
    """Kill one of our processes while tasks arrive; Postgres is started again at once."""
    await stack.clear()
    runs = stack.home / f"runs-{victim}"
    runs.touch()
    sent: dict[int, float] = {}
    refused = 0
    killed = 0.0
    revival = None
    async with stack.dispatching():
        connection: asyncpg.Connection[Any] | None = await asyncpg.connect(stack.state.dsn)
        started = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(started + number / KILL_RATE - time.perf_counter(), 0))
            if number == count // 3:
                pid = await victim_pid(stack, victim)
                killed = time.time()
                os.kill(pid, signal.SIGKILL)
                if victim == "Postgres":
                    revival = asyncio.create_task(stack.run("up"))
            at = time.time()
            try:
                connection = connection or await asyncpg.connect(stack.state.dsn, timeout=2)
                await connection.execute(INSERT, json.dumps({"number": number, "runs": str(runs)}))
                sent[number] = at
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                refused += 1  # its sender knows that it was not taken
                connection = None
        if revival:
            await revival
            stack.db = await asyncpg.connect(stack.state.dsn)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and await stack.completed() < len(sent):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        if connection:
            await connection.close()
    return outcome(sent, killed, starts(runs), refused)


async def victim_pid(stack: Stack, victim: str) -> int:
    """Process to kill."""
    if victim == "replica":
        return stack.replica_pid()
    if victim == "Postgres":
        return stack.state.processes["postgres"].pid
    pid: int | None = await stack.db.fetchval("SELECT pid FROM lanes")
    if pid is None:
        raise Unmeasured("there is no lane to kill")
    return pid


def starts(runs: Path) -> list[tuple[int, float]]:
    """Every run of a task: its number and when it began."""
    return [(int(line.split()[0]), float(line.split()[1])) for line in runs.read_text().splitlines()]


def outcome(sent: dict[int, float], killed: float, starts: Any, refused: int) -> dict[str, Any]:
    """Count what a kill did.

    Args:
        sent: When each task was accepted, by number.
        starts: Every run of a task: its number and when it began.

    Returns:
        Tasks that never ran, that ran more than once; the longest time after the kill in which none began;
        how long after the kill the last of those began that were sent before it.
    """
    times: Counter[int] = Counter(number for number, _ in starts)
    after = sorted([killed, *(at for _, at in starts if at > killed)])
    early = [at for number, at in starts if number in sent and sent[number] < killed]
    return {
        "sent": len(sent),
        "refused": refused,
        "lost": sum(number not in times for number in sent),
        "twice": sum(count > 1 for count in times.values()),
        "silence_s": max((b - a for a, b in pairwise(after)), default=0.0),
        "straggler_s": max(max(early, default=killed) - killed, 0.0),
    }
