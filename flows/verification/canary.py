"""The canary: a small task that goes through the whole system, from its insertion to its outcome."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import anyio

from organism_flows.blocks.finding import Finding, degraded, failed, ok
from organism_flows.blocks.queue import FINISHED, NewTask, Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from organism_flows.flows.verification.thresholds import Thresholds

POLL_S = 0.1
TYPE = "health_check"
UNSERVED = (
    "say `include_builtin: true` in organism.yaml, or add an organ with `task_types: [health_check]` and "
    "`handler: organism_flows.serve_apps.organism.handlers.basics:handle`"
)
"""What to do for an organism without the built-in organs."""
PRIORITY = 1_000_000
"""Priority of the canary, before all other tasks.

The canary shows whether tasks are processed, not how many of them wait.
"""


async def check(queue: Queue, limits: Thresholds) -> list[Finding]:
    """Return whether a canary task completes within ``limits.canary_s`` seconds.

    A task that does not is cancelled. If no lane claims tasks, none is sent.
    """
    if not any(lane.claiming for lane in await queue.reader.lanes()):
        return [
            degraded(
                "canary", "not sent: no lane claims tasks", "start one: `organism dispatch`, or its schedule"
            )
        ]
    started = time.monotonic()
    task = NewTask(
        type=TYPE, domain="canary", priority=PRIORITY, max_attempts=1, description="canary of verify"
    )
    [task_id] = await queue.submit([task])
    try:
        async with asyncio.timeout(limits.canary_s):
            while (row := await queue.get(str(task_id))).status not in FINISHED:  # noqa: ASYNC110  # a table
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        why = await queue.reader.why(str(task_id))
        await queue.operator.cancel([task_id])
        return [
            failed(
                "canary",
                f"after {limits.canary_s:g} s {' '.join(why.sentence.split())}",
                f"{' '.join((why.next_step or '').split()) or 'see the lanes and the organism'}"
                f"; `organism tasks why {str(task_id)[:13]}` has its history",
            )
        ]
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True), suppress(*TRANSIENT_ERRORS):
            await queue.operator.cancel([task_id])
        raise
    took = time.monotonic() - started
    if row.status != "completed":
        unserved = (row.error or "").startswith("no organ serves")
        action = UNSERVED if unserved else "see organism: health"
        return [failed("canary", f"task {task_id} {row.status}: {row.error}", action)]
    return [ok("canary", f"completed {took * 1000:.0f} ms after it was added")]
