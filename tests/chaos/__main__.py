"""`make chaos`: the long chaos run, on a stack of its own."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from cyclopts import App

from organism_flows.blocks.queue import Queue
from tests.chaos.chaos import Chaos, Plan
from tests.chaos.page import table, write_down
from tests.chaos.project import make_project
from tests.chaos.report import Report, judge
from tests.chaos.victims import Kind
from tests.support.history import read_history
from tests.support.stack import CONFIG, Stack

BEFORE_S = 10.0
DECK: tuple[Kind, ...] = (
    *("lane", "lane", "replica", "replica", "flow", "flow"),
    *("controller", "proxy", "postgres", "prefect", "gateway", "ray", "poison", "redeploy", "relief"),
)
"""Each round of kills; what more tasks depend on comes twice."""
THEIRS = (
    *("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"),
    *("RAY_ADDRESS", "ORGANISM_DSN", "PG_DSN", "SEEDCORE_PG_DSN"),
)
"""Nothing of the user's own servers may be touched."""
app = App(name="chaos", help=__doc__, version_flags=[])


@app.default
async def chaos(
    *,
    seed: int | None = None,
    tasks: int = 30_000,
    seconds: float = 900.0,
    lease: float = 15.0,
    lanes: int = 2,
    replicas: int = 2,
    ray: bool = True,
    units: int = 0,
    record: bool = False,
) -> int:
    """Run tens of thousands of tasks while everything is killed or replaced, and check that all settle once.

    Args:
        seed: Of the schedule and the tasks; unset: a random one, which is printed.
        tasks: At least so many; there are more if they run out while things are killed.
        seconds: For how long things are killed.
        lease: Lease of a lane, in seconds.
        lanes: Lanes of a dispatch run.
        replicas: Replicas of the organism.
        ray: Kill the Ray head too.
        units: Tasks of 60 units of 2 s, each of which is saved; every second one runs in a process. Things
            are killed, those processes too, until they have ended, for ``seconds`` at most.
        record: Add the run to docs/explanation/reliability.json and its figures to the page.
    """
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    deck = DECK if ray else tuple(kind for kind in DECK if kind != "ray")
    deck += ("worker",) * 2 if units else ()
    plan = Plan(seed, tasks, seconds, deck, (BEFORE_S, BEFORE_S + 5.0), lanes=lanes, units=units)
    options = f"--seed {seed} --tasks {tasks} --seconds {seconds:g} --lease {lease:g} --units {units}"
    print(f"make chaos ARGS='{options}'", flush=True)
    home = Path(tempfile.mkdtemp(prefix="organism-chaos-"))
    home.chmod(0o711)
    stack = Stack(home)
    for name in THEIRS:
        stack.env.pop(name, None)
    stack.env |= {"ORGANISM_LEASE_SECONDS": str(lease), "ORGANISM_REPLICAS": str(replicas)}
    make_project(stack, CONFIG.with_name("chaos.yaml").read_text())
    kept = True
    try:
        stack.run("up")
        async with Queue(stack.state.dsn) as queue:
            run = await Chaos(stack, queue, plan, lambda line: print(line, flush=True))()
            judged = judge(run, await read_history(queue, run.evidence), before_s=BEFORE_S)
        kept = not _say(judged, record=record)
    finally:
        stack.run("down")
        if kept:
            print(f"logs are kept in {home}", file=sys.stderr)
        else:
            shutil.rmtree(home, ignore_errors=True)
    return 1 if kept else 0


def _say(judged: Report, *, record: bool) -> bool:
    """Print what was found, and note it down if asked to; whether all is well."""
    found = judged.as_json()
    print(json.dumps({name: value for name, value in found.items() if name != "kills"}, indent=1))
    print(table([found]))
    if record:
        write_down(found)
    if judged.units:
        print(judged.units)
    print(f"{len(judged.history.tasks)} tasks, {len(judged.measured)} kills, {found['seconds']} s")
    for line in judged.violations[:20]:
        print(f"broken: {line}")
    for line in judged.run.incidents:
        print(f"incident: {line}")
    for line in judged.standstills:
        print(f"standstill: {line}")
    for line in judged.slow:
        print(f"slow: {line}")
    print(f"{len(judged.violations)} violations" if judged.violations else "every task settled exactly once")
    return not (judged.violations or judged.standstills or judged.slow or judged.run.incidents)


if __name__ == "__main__":
    sys.exit(asyncio.run(app.run_async()))
