"""The short chaos run: what tasks depend on is killed or replaced, each once, under thousands of tasks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from organism_flows.blocks.queue import Queue
from organism_flows.deployments.stack.health import check_organism, local_client
from tests.chaos.chaos import Chaos, Plan
from tests.chaos.page import table
from tests.chaos.project import make_project
from tests.chaos.report import ALLOWANCE_S, judge
from tests.chaos.workload import Mix
from tests.support.history import read_history
from tests.support.stack import CONFIG, Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack, pytest.mark.chaos]
BEFORE_S = 2.0
KILLED = -9
GAP_S = 60.0
"""Far above what is promised: a dispatch takes long to start where tests of others run too."""
# `make chaos` kills the others as well, and many times.
PLAN = Plan(
    seed=249,
    tasks=1500,
    mix=Mix(slow_s=0.5, long_s=(15.0, 20.0)),
    seconds=240.0,
    deck=("lane", "postgres", "replica", "redeploy"),
    kills=4,
    longs=2,
    pause_s=(BEFORE_S, BEFORE_S + 1.0),
    on_top=0.4,
    patience_s=120.0,
)


@pytest.fixture
def chaos_stack(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """The running stack with the organism of the chaos runs."""
    with monkeypatch.context() as patch:
        patch.setitem(stack.env, "ORGANISM_CONFIG", "")  # given back at the end
        make_project(stack, CONFIG.with_name("chaos.yaml").read_text())
        stack.run("up")
        yield stack
    stack.run("up")


@pytest.mark.soak
async def test_every_task_is_settled_once_whatever_is_killed(chaos_stack: Stack, stack_queue: Queue) -> None:
    said: list[str] = []
    run = await Chaos(chaos_stack, stack_queue, PLAN, said.append)()
    history = await read_history(stack_queue, run.evidence)
    report = judge(run, history, before_s=BEFORE_S, gap_s=GAP_S)
    print("\n".join(said), table([report.as_json()]), report.as_json(), sep="\n")
    assert not report.violations, "\n".join(report.violations[:20])
    assert not report.standstills, "\n".join(report.standstills)
    assert not run.incidents
    assert set(run.dispatches) <= {0, KILLED}, "a dispatch outlives everything but its own death"
    assert {killed.kind for killed in run.killed} == set(PLAN.deck), "too few kills to prove anything"
    lanes = [m.recovery for m in report.measured if m.alone and m.killed.kind == "lane"]
    assert all(recovery.back_s <= run.lease_s + ALLOWANCE_S for recovery in lanes)
    await until(lambda: healthy(chaos_stack))


async def healthy(stack: Stack) -> bool:
    async with local_client() as client:
        return (await check_organism(client, stack.state)).ok
