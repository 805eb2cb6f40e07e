"""A steady trickle across the end of one dispatch run, while the next, scheduled to overlap, has begun.

Pick-up is measured to the moment the handler is called, which is later than the claim: an upper bound.
"""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise
from typing import Any

from benchmarks.arrivals import Arrival, Seen, client
from benchmarks.figures import Figure, Result, percentile
from benchmarks.options import Options
from benchmarks.stack import Stack

RATE = 50
FIRST_S = 25.0
"""How long the first run claims."""
NEXT_AFTER_S = 8.0
"""When the next run is started: it needs some seconds before its lane claims."""
TRICKLE_S = 40.0


async def measure(stack: Stack, options: Options) -> Result:
    """The slowest pick-ups and the longest silence of handlers, over the whole trickle."""
    await stack.clear()
    began = time.time()
    async with (
        stack.dispatching("--max-seconds", str(FIRST_S)) as first,
        client(stack.state.dsn) as one,
    ):
        trickle = asyncio.create_task(
            one.trickle(RATE, TRICKLE_S, lambda _: Arrival("bench.begun", {}, "begun"))
        )
        await asyncio.sleep(NEXT_AFTER_S)
        async with stack.dispatching("--max-seconds", "120"):
            await asyncio.to_thread(first.wait)
            first_ended = time.time() - began
            stack.say(f"the first run ended after {first_ended:.1f} s")
            seen = await trickle
    pick_ups, gaps = await picked_up(stack, seen)
    return Result(
        [
            Figure(
                f"handover at {RATE}/s: p99 pick-up",
                percentile(pick_ups, 99),
                "s",
                at_most=1.0,
                note=f"p50 {percentile(pick_ups, 50) * 1000:.1f} ms, longest {max(pick_ups):.3f} s, "
                f"{len(pick_ups)} tasks",
            ),
            Figure(
                f"handover at {RATE}/s: longest gap between two handler calls",
                max(gaps),
                "s",
                at_most=1.0,
                note=f"tasks arrive every {1 / RATE:.3f} s",
            ),
        ],
        {"pick_ups_s": pick_ups, "first_run_ended_s": first_ended},
    )


async def picked_up(stack: Stack, seen: list[Seen]) -> tuple[list[float], list[float]]:
    """Seconds from each task's insertion to its handler's call, and between those calls."""
    rows: list[Any] = await stack.db.fetch(
        "SELECT extract(epoch FROM created_at)::float8 AS created, result::text FROM tasks "
        "WHERE id = ANY($1::uuid[]) ORDER BY created_at",
        [task.id for task in seen],
    )
    called = [json.loads(row["result"])["at"] for row in rows]
    pick_ups = [at - row["created"] for at, row in zip(called, rows, strict=True)]
    ordered = sorted(called)
    return pick_ups, [later - earlier for earlier, later in pairwise(ordered)]
