"""An organ with a deployment of its own, from one replica to four and back as work comes and goes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

from benchmarks.figures import Figure, Result, Unmeasured
from benchmarks.options import Options
from benchmarks.stack import PATIENCE_S, Stack
from organism_flows.deployments.stack.health import bearer
from organism_flows.serve_apps.organism.release.serve_config import organ_deployment

ORGAN = "scaled"
CONCURRENCY = 4
MOST = 4
TASK_S = 0.25
TASKS = 2400
"""More than half a minute's work for all four replicas."""
EVERY_S = 0.5
STATUS = """
    SELECT count(*) FILTER (WHERE status = 'running') AS running,
           count(*) FILTER (WHERE status IN ('queued', 'retry')) AS waiting FROM tasks
"""


async def measure(stack: Stack, options: Options) -> Result:
    """Watch replicas and tasks while a queue is worked off, and until only one replica is left."""
    tasks = options.tasks(TASKS)
    await stack.clear()
    samples: dict[str, list[float]] = {"seconds": [], "replicas": [], "running": [], "waiting": []}
    async with stack.dispatching("--max-seconds", "600"):
        began = time.monotonic()
        await stack.load(tasks, "bench.scaled", {"seconds": TASK_S})
        while True:
            await sample(stack, samples, time.monotonic() - began)
            worked_off = not samples["running"][-1] and not samples["waiting"][-1]
            if worked_off and samples["replicas"][-1] == 1:
                break
            if time.monotonic() - began > PATIENCE_S + tasks * TASK_S:
                raise Unmeasured(f"{samples['replicas'][-1]} replicas are left of what was once 1")
            await asyncio.sleep(EVERY_S)
    most = max(samples["replicas"])
    reached = samples["seconds"][samples["replicas"].index(most)]
    ended = next(
        at
        for at, running, waiting in zip(
            samples["seconds"], samples["running"], samples["waiting"], strict=True
        )
        if not running and not waiting
    )
    full = [
        running
        for at, running, waiting in zip(
            samples["seconds"], samples["running"], samples["waiting"], strict=True
        )
        if at > reached + 5 and waiting
    ]
    used = sorted(full)[len(full) // 2] / (most * CONCURRENCY) if full else float("nan")
    return Result(
        [
            Figure("scaling: replicas at most", most, "", at_least=MOST if tasks == TASKS else None),
            Figure(
                "scaling: seconds until so many run",
                reached,
                "s",
                note=f"{tasks} tasks of {TASK_S} s at once",
            ),
            Figure(
                "scaling: tasks in flight over slots once they run",
                used,
                note="median while tasks wait; what is above 1 waits at a replica",
            ),
            Figure(
                "scaling: seconds from the last task to one replica",
                samples["seconds"][-1] - ended,
                "s",
                note="downscale_delay_s is 10",
            ),
        ],
        {**samples, "concurrency": CONCURRENCY},
    )


async def sample(stack: Stack, samples: dict[str, list[float]], at: float) -> None:
    """Add what there is now."""
    row = await stack.db.fetchrow(STATUS)
    assert row is not None
    samples["seconds"].append(at)
    samples["replicas"].append(await replicas(stack))
    samples["running"].append(row["running"])
    samples["waiting"].append(row["waiting"])


async def replicas(stack: Stack) -> int:
    """How many replicas of the organ run, as Serve sees it."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        answer = await client.get(
            f"{stack.state.ray_dashboard_url}/api/serve/applications/",
            headers=bearer(stack.state.ray_token_path),
        )
    found: dict[str, Any] = answer.json()["applications"]["organism"]["deployments"][organ_deployment(ORGAN)]
    return sum(replica["state"] == "RUNNING" for replica in found["replicas"])
