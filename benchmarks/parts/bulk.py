"""Adding many tasks at once, beside a bare COPY of the same rows."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable

from uuid_utils.compat import uuid7

from benchmarks.figures import Figure, Result, median, spread
from benchmarks.options import Options
from benchmarks.peers.drained import PAYLOAD
from benchmarks.stack import LOAD_TIMEOUT_S, Stack
from organism_flows.blocks.queue import NewTask, Queue

TASKS = 200_000
SUBMITTED_AT_ONCE = 5000
COLUMNS = ("id", "type", "params", "run_after")


async def measure(stack: Stack, options: Options) -> Result:
    """Tasks a second by `Producer.load`, by `Producer.submit`, and rows a second by COPY."""
    tasks = [NewTask(type="bench.noop", params=PAYLOAD) for _ in range(options.tasks(TASKS))]
    async with Queue(stack.state.dsn) as queue:
        now, params = await queue.reader.now(), json.dumps(PAYLOAD)

        async def load() -> None:
            await queue.producer.load(tasks)

        async def submit() -> None:
            for start in range(0, len(tasks), SUBMITTED_AT_ONCE):
                await queue.submit(tasks[start : start + SUBMITTED_AT_ONCE])

        async def copy() -> None:
            rows = ((uuid7(), "bench.noop", params, now) for _ in tasks)
            await stack.db.copy_records_to_table(
                "tasks", records=rows, columns=COLUMNS, timeout=LOAD_TIMEOUT_S
            )

        ways: dict[str, Callable[[], Awaitable[None]]] = {"load": load, "submit": submit, "copy": copy}
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds(3)):
            for name, way in ways.items():
                await stack.clear()
                started = time.perf_counter()
                await way()
                rates[name].append(len(tasks) / (time.perf_counter() - started))
                stack.say(f"{name}: {rates[name][-1]:,.0f} tasks/s")
    await stack.clear()
    loaded, copied = median(rates["load"]), median(rates["copy"])
    return Result(
        [
            Figure("bulk: tasks added by load", loaded, "/s", at_least=100_000, note=spread(rates["load"])),
            Figure(
                "bulk: load over a bare COPY of the same rows",
                loaded / copied,
                note=f"COPY {spread(rates['copy'])} rows/s",
            ),
            Figure(
                f"bulk: tasks added by submit, {SUBMITTED_AT_ONCE} at once",
                median(rates["submit"]),
                "/s",
                note=spread(rates["submit"]),
            ),
        ],
        {"tasks": len(tasks), "rates": rates},
    )
