"""What `organism status` and `organism tasks why` say of long work, on the real stack."""

from __future__ import annotations

import re
import subprocess

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from tests.support.queue.helpers import claim
from tests.support.sql import pool_of
from tests.support.stack import Stack

pytestmark = [pytest.mark.anyio, pytest.mark.stack]


def said(process: subprocess.Popen[str], code: int = 0) -> list[str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    return out.splitlines()


async def test_a_healthy_stack_says_what_is_unusual_about_its_work(stack: Stack, stack_queue: Queue) -> None:
    assert stack.run("status")["work"] == []
    assert said(stack.start("status"))[-1] == "all healthy"
    [task_id] = await stack_queue.submit([NewTask(type="echo")])
    await stack_queue.leases.register("lane", run="run")
    for _ in range(3):
        batch = await claim(stack_queue)
        await stack_queue.claims.release(
            "lane", batch, cause="interrupted", error="the lane stopped", suspicion=1
        )
    await claim(stack_queue)
    await pool_of(stack_queue).execute("UPDATE tasks SET locked_at = locked_at - interval '2 minutes'")
    await stack_queue.operator.request_leave("run")
    await pool_of(stack_queue).execute("UPDATE lanes SET lease_until = queue_now() + interval '1 hour'")
    [*_, line] = said(stack.start("status"))
    assert line.startswith("healthy; 1 suspect runs in a process of its own; 1 lane leaves since ")
    assert "; 1 unfinished task was interrupted more than twice; 1 task on a replica has waited" in line
    found = stack.run("status")
    assert (found["state"], len(found["work"]), found["notes"]) == ("healthy", 4, [])
    why, step = said(stack.start("tasks", "why", str(task_id)))
    assert re.search(r"was handed to a replica \d+ s ago and waits there", why)
    assert "it was interrupted 3 times, the last time at " in why
    assert "(the lane stopped); lane lane is leaving since " in why
    assert "organism tasks policy echo --max-interruptions N" in step
    shown = "\n".join(said(stack.start("tasks", "show", str(task_id))))
    assert "interrupted 3 times, replicas that died with it: 3" in shown
    print("\n".join([line, why, step, shown]))
