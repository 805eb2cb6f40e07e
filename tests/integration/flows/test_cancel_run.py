"""A dispatch run that is stopped, from the Prefect UI or by Ctrl-C, ends in good order (promise 7)."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.states import Cancelling

from organism_flows.blocks.local_stack.stack_state import prefect_environment_of
from organism_flows.blocks.queue import Queue
from organism_flows.flows.dispatch import dispatch
from tests.support.flows.tasks_under_way import Tasks
from tests.support.stack import PATIENCE, Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack]
POOL = "tests"
WORKER_STOPS_S = 10.0
"""Prefect 3.8.8's worker, told to stop while it looks after a run that was just cancelled, may never end. Its
last line is "Cancelled flow run" and its event loop has nothing to do (seen once in about ten runs)."""


@pytest.fixture
def worker(stack: Stack) -> Iterator[subprocess.Popen[bytes]]:
    """A real worker on a process work pool."""
    with (stack.home / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"],
            env={
                **stack.env,
                **prefect_environment_of(stack.state),
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                # As in `deployments.stack.child_environment.worker_environment`.
                "TMPDIR": str(stack.home),
            },
            cwd=stack.home,
            stdout=log,
            stderr=log,
        )
    yield process
    process.terminate()
    try:
        process.wait(WORKER_STOPS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(PATIENCE)


async def start_run(**parameters: Any) -> UUID:
    """Start a run of a deployment of the dispatch flow, as the UI does."""
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"), overwrite=True)
        deployment = await client.create_deployment(
            flow_id=await client.create_flow(dispatch),
            name="tests",
            work_pool_name=POOL,
            entrypoint="organism_flows.flows.dispatch.dispatch",
            pull_steps=[],
        )
        run = await client.create_flow_run_from_deployment(deployment, parameters=parameters)
    return run.id


@pytest.fixture
async def tasks(stack: Stack, stack_queue: Queue) -> Tasks:
    tasks = Tasks(stack, stack_queue)
    await tasks.submit()
    return tasks


@pytest.mark.soak
async def test_a_run_cancelled_from_the_ui_drains(worker: subprocess.Popen[bytes], tasks: Tasks) -> None:
    run = await start_run(lanes=2)
    await until(tasks.all_run)
    async with get_client() as client:
        await client.set_flow_run_state(run, Cancelling())
        tasks.let_end()

        async def ended() -> Any:
            state = (await client.read_flow_run(run)).state
            return state if state and state.is_final() else None

        state = await until(ended, patience=PATIENCE)
        assert state.name == "Cancelled", state
        assert "drained" in (state.message or "")
        await tasks.check()

        async def lanes_ended() -> bool:
            found = await client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
            return len(found) == 2 and all(lane.state and lane.state.is_final() for lane in found)

        await until(lanes_ended)
    assert worker.poll() is None, "the worker goes on"


async def test_a_second_ctrl_c_hands_back_at_once(stack: Stack, stack_queue: Queue, tasks: Tasks) -> None:
    process = stack.start("dispatch", "--json")
    await until(tasks.all_run)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "a second signal: at once" not in (line := await asyncio.to_thread(process.stderr.readline)):
        assert line, "it ended"
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(stack.finish, process, code=130)
    assert (await stack_queue.reader.counts())["running"] == 0, "nobody has to wait for a lease"
    tasks.let_end()
    tasks.never.touch()


async def test_ctrl_c_drains(stack: Stack, tasks: Tasks) -> None:
    process = stack.start("dispatch", "--lanes", "2", "--json")
    await until(tasks.all_run)
    process.send_signal(signal.SIGINT)
    tasks.let_end()
    stopped = await asyncio.to_thread(stack.finish, process, code=130)
    assert "drained" in stopped["stopped"]
    await tasks.check()
