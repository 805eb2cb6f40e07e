"""`make long`: long tasks beside short ones under the default schedule, on a stack of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from cyclopts import App

from organism_flows.blocks.queue import Queue
from tests.chaos.long.measure import measure
from tests.chaos.long.picture import draw
from tests.chaos.long.recorded import LongRun, Plan, default_stack
from tests.chaos.page import PAGE, long_table, replace_block

RECORD = PAGE.with_name("long-work.json")
PICTURE = PAGE.parents[1] / "images" / "long-work.svg"
app = App(name="long", help=__doc__, version_flags=[])


@app.default
async def long(
    *,
    minutes: float = 60.0,
    long_minutes: float = 20.0,
    longs: int = 8,
    rate: float = 50.0,
    replicas: int = 2,
    record: bool = False,
) -> int:
    """Run long tasks beside short ones, through three kills and a redeploy.

    Args:
        minutes: For how long short tasks are submitted.
        long_minutes: What a long task takes.
        longs: How many long ones there are; they hold every slot of theirs.
        rate: Short tasks a second.
        replicas: Replicas of the organism.
        record: Write docs/explanation/long-work.json, its picture and its part of the page.
    """
    # Its pool reports each try to connect while Postgres is away, with a traceback.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    plan = Plan(minutes, long_minutes, longs, rate, replicas)
    home = Path(tempfile.mkdtemp(prefix="organism-long-"))
    stack = default_stack(home, longs=longs, long_s=long_minutes * 60, replicas=replicas)
    kept = True
    try:
        stack.run("up")
        async with Queue(stack.state.dsn) as queue:
            recorded = await LongRun(stack, queue, plan, lambda line: print(line, flush=True))()
            found = await measure(queue, recorded)
        (home / "long-work.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found, home / "long-work.png")
        if record:
            write_down(found)
        print(long_table(found))
        for line in found["violations"]:
            print(f"broken: {line}")
        kept = bool(found["violations"])
    finally:
        stack.run("down")
        if kept:
            print(f"logs, record and picture are kept in {home}", file=sys.stderr)
        else:
            shutil.rmtree(home, ignore_errors=True)
    return 1 if kept else 0


def write_down(found: dict[str, Any]) -> None:
    """Put a record, its picture and its table into docs/."""
    RECORD.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, PICTURE)
    replace_block("long", long_table(found))


if __name__ == "__main__":
    sys.exit(asyncio.run(app.run_async()))
