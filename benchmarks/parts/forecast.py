"""When `organism tasks why` says that a task will begin, and when it does: one line, and four that share."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.figures import Figure, Result, Unmeasured, median
from benchmarks.options import Options
from benchmarks.stack import LOAD_TIMEOUT_S, Stack, until
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.explain.forecast import SHARE

TYPE = "bench.forecast"
TASKS = 2000
KEYS = {"one line": 1, "four keys": 4}
EVERY_S = 0.5
ASKED = 8
"""Waiting tasks that are asked about at one time."""
MEDIAN_S = 0.06
"""Of the time that a handler takes. The times are log-normal: one in a hundred takes ten times as long."""

ADD = """
INSERT INTO tasks (type, key, params)
SELECT $1, 'k' || n % $2, jsonb_build_object('seconds', seconds)
FROM unnest($3::float8[]) WITH ORDINALITY AS given(seconds, n)
"""
WAITING = "SELECT id FROM tasks WHERE status = 'queued' ORDER BY random() LIMIT $1"
BEGUN = """
SELECT id, extract(epoch FROM finished_at - make_interval(secs => elapsed_ms / 1000))::float8 AS at
FROM tasks WHERE status = 'completed'
"""
LEFT = "SELECT count(*) FROM tasks WHERE status IN ('queued', 'retry', 'running')"


async def measure(stack: Stack, options: Options) -> Result:
    """Drain tasks, ask about some that wait again and again, and compare with what became of them."""
    figures: list[Figure] = []
    samples: dict[str, Any] = {}
    for name, keys in KEYS.items():
        said = await forecasts(stack, options.tasks(TASKS), keys)
        held = sum(one["earliest"] <= one["real"] <= one["latest"] for one in said) / len(said)
        middle = [abs((one["earliest"] + one["latest"]) / 2 - one["real"]) / one["real"] for one in said]
        width = [(one["latest"] - one["earliest"]) / one["real"] for one in said]
        note = f"{len(said)} forecasts; said is {SHARE:.0%}"
        figures += [
            Figure(f"forecast, {name}: begun within the range", 100 * held, "%", at_least=70, note=note),
            Figure(
                f"forecast, {name}: the middle of the range, off by",
                100 * median(middle),
                "%",
                note=f"median, of the real wait; the range is {100 * median(width):.0f} % of it wide",
            ),
        ]
        samples[name] = said
    return Result(figures, samples)


async def forecasts(stack: Stack, tasks: int, keys: int) -> list[dict[str, float]]:
    """Return ranges that were said, and the real waits, in seconds from when each was said."""
    await stack.clear()
    chosen = random.Random(tasks + keys)  # noqa: S311  # the same in each run
    took = [min(chosen.lognormvariate(0, 1) * MEDIAN_S, 5.0) for _ in range(tasks)]
    await stack.db.execute(ADD, TYPE, keys, took, timeout=LOAD_TIMEOUT_S)
    await stack.db.execute("ANALYZE tasks")
    said: list[dict[str, Any]] = []
    async with Queue(stack.state.dsn) as queue, stack.dispatching("--until-empty") as process:

        async def drained() -> bool:
            for row in await stack.db.fetch(WAITING, ASKED):
                now = await stack.db.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
                why = await queue.reader.why(str(row["id"]))
                if why.begins is not None and why.begins.latest is not None:
                    said.append(
                        {
                            "id": row["id"],
                            "now": now,
                            "earliest": why.begins.earliest.timestamp(),
                            "latest": why.begins.latest.timestamp(),
                        }
                    )
            return bool(await stack.db.fetchval(LEFT) == 0)

        await until(drained, "the end of the drain", process, every_s=EVERY_S)
    begun = {row["id"]: row["at"] for row in await stack.db.fetch(BEGUN)}
    if not said:
        raise Unmeasured("nothing was said about when a task begins")
    return [
        {
            "earliest": max(one["earliest"] - one["now"], 0.0),
            "latest": one["latest"] - one["now"],
            "real": max(begun[one["id"]] - one["now"], 0.01),
        }
        for one in said
    ]
