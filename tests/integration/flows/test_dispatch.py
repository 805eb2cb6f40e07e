"""The dispatch flow on the real stack: what it returns, what its run page shows, and how it refuses."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed

from organism_flows.blocks.errors import ConfigurationError, LaneLost, OrganismUnavailable
from organism_flows.blocks.prefect_blocks.organism import Organism
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.dispatch import dispatch
from organism_flows.flows.supervision import lane_processes
from organism_flows.flows.supervision.lane_processes import prepare_lanes
from organism_flows.flows.supervision.lane_task import _may_succeed_next_time, run_lane
from organism_flows.flows.supervision.supervisor import DispatchSummary
from tests.support.flows.artifacts import artifacts_of, newest_run
from tests.support.history import check_history
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack]


async def test_a_run_that_can_be_read(stack: Stack, stack_queue: Queue) -> None:
    tasks = [NewTask(type="echo", params={"n": n}) for n in range(500)]
    tasks += [NewTask(type="broken", max_attempts=2), NewTask(type="no.such.type")]
    ids = [str(i) for i in await stack_queue.submit(tasks)]

    summary = await dispatch(lanes=2, until_empty=True)

    assert isinstance(summary, DispatchSummary)
    assert (summary.completed, summary.failed, summary.retried) == (500, 2, 1)
    assert (summary.lanes, summary.lanes_died, summary.errors) == (2, 0, [])
    assert summary.claimed == 503
    await check_history(stack_queue, ids)

    run = await newest_run()
    assert run.name.startswith("dispatch · ")
    assert run.name.endswith(" · 2 lanes")
    assert run.state_name == "Completed"
    assert "500 completed, 2 dead letters" in (run.state.message or "")
    assert "password" not in str(run.parameters)
    artifacts = await artifacts_of(run.id)
    assert artifacts["dispatch-progress"].data == 100.0
    table = artifacts["dispatch-failures"].data
    assert all(task_id in table for task_id in ids[500:])
    assert "no organ serves type" in table
    async with get_client() as client:
        lanes = await client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])), limit=200
        )
        assert sorted(lane.name for lane in lanes) == ["lane-1", "lane-2"]
        assert {lane.state_name for lane in lanes} == {"Completed"}
        logs = await client.read_logs(
            log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200
        )
    from_lanes = [log.message for log in logs if log.task_run_id]
    assert any("started" in line for line in from_lanes), "the lanes' logs belong in the run's log view"
    assert any("ended" in line for line in from_lanes)


async def test_an_idle_run_ends_when_its_time_is_over(stack_queue: Queue) -> None:
    summary = await dispatch(max_seconds=0.2)
    assert summary.claimed == 0


async def test_lanes_run_in_the_processes_that_were_prepared_for_them(
    stack_queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[int] = []

    async def preparing(cluster: RayCluster, lanes: int) -> list[int]:
        prepared.extend(await prepare_lanes(cluster, lanes))
        return prepared

    monkeypatch.setattr("organism_flows.flows.dispatch.prepare_lanes", preparing)
    lane_processes.begin(
        1
    )  # as `organism dispatch` does before it imports Prefect; the flow prepares the other
    running = asyncio.create_task(dispatch(lanes=2, max_seconds=120))

    async def lanes_claim() -> bool:
        return running.done() or len(await stack_queue.reader.lanes()) == 2

    await until(lanes_claim, patience=300)
    lanes = await stack_queue.reader.lanes()
    # One process may have been prepared twice, if it was there already.
    assert len(prepared) == 2
    assert set(prepared) <= {lane.pid for lane in lanes}
    assert lanes[0].run
    await stack_queue.operator.request_stop(lanes[0].run)
    await running


@pytest.mark.parametrize(
    ("parameters", "field"),
    [({"lanes": 0}, "lanes"), ({"max_seconds": -1}, "max_seconds"), ({"batch_size": 10**6}, "batch_size")],
)
async def test_bad_parameters_are_refused_by_name(
    parameters: dict[str, Any], field: str, stack: Stack
) -> None:
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError, match=field):
        await dispatch(**parameters)


async def failed_run() -> str:
    run = await newest_run()
    assert run.state_name == "Failed", "a run that cannot start must not stay Running"
    return str(run.state.message)


async def test_an_unknown_block_is_named(stack: Stack) -> None:
    with pytest.raises(ConfigurationError, match="task-queue/nowhere"):
        await dispatch(queue="nowhere")
    assert "nowhere" in await failed_run()


async def test_an_organism_that_is_not_there_is_named(stack: Stack) -> None:
    await Organism(app_name="elsewhere").asave("elsewhere", overwrite=True)
    with pytest.raises(OrganismUnavailable, match="elsewhere"):
        await dispatch(organism="elsewhere")
    assert "elsewhere" in await failed_run()


async def test_a_database_that_is_not_there_is_named_without_its_password(stack: Stack) -> None:
    name = f"gone-{uuid4().hex[:8]}"
    await TaskQueue(dsn="postgresql://me:hunter2@127.0.0.1:1/db").asave(name)
    with pytest.raises(Exception, match=r"127\.0\.0\.1:1/db") as refused:
        await dispatch(queue=name)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in await failed_run()


async def test_without_a_prefect_server_it_refuses_before_fanning_out(stack: Stack) -> None:
    with (
        temporary_settings({PREFECT_API_URL: None}),
        pytest.raises(ConfigurationError, match="PREFECT_API_URL"),
    ):
        await dispatch.fn()


async def test_blocks_are_registered_and_keep_secrets(stack: Stack) -> None:
    async with get_client() as client:
        for slug in ("task-queue", "organism", "ray-cluster"):
            block_type = await client.read_block_type_by_slug(slug)
            assert block_type.description
            await client.read_block_document_by_name("default", slug)
    saved = TaskQueue(dsn="postgresql://me:hunter2@db/tasks", lease_seconds=7)
    await saved.asave("secret", overwrite=True)
    loaded = await TaskQueue.named("secret")
    assert loaded.lease_seconds == 7
    assert loaded.dsn is not None
    assert loaded.dsn.get_secret_value().endswith("@db/tasks")
    assert "hunter2" not in repr(loaded)
    async with get_client() as client:
        document = await client.read_block_document_by_name("secret", "task-queue", include_secrets=False)
    assert "hunter2" not in str(document.data)


async def test_blocks_work_without_a_server(stack: Stack) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        queue = (await TaskQueue.named()).pinned()
        assert queue.dsn is not None
        assert queue.dsn.get_secret_value() == stack.state.dsn
        assert (await RayCluster.named())._address() == os.environ["RAY_ADDRESS"]
        with pytest.raises(ConfigurationError, match="no Prefect server"):
            await Organism.named("other")


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("auto", "not host:port"),
        ("ray://127.0.0.1:1", "Ray Client, which is not supported"),
        ("127.0.0.1:1", "no Ray at"),
    ],
)
async def test_a_ray_that_is_not_there_is_named(
    address: str, names: str, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigurationError, match=names):
        await RayCluster().connect()


def test_what_a_lane_is_retried_for() -> None:
    unread: Any = None

    def may(error: BaseException) -> bool:
        return _may_succeed_next_time(run_lane, unread, Failed(data=error))

    assert run_lane.retries == 2
    assert may(LaneLost("lost"))
    assert may(ConnectionRefusedError())
    assert not may(TimeoutError())
    assert not may(ConfigurationError("wrong"))
    assert not may(RuntimeError("ours"))


async def test_the_watchdog_ends_a_stuck_lane_and_its_tasks_come_back(
    stack: Stack, stack_queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    [task_id] = await stack_queue.submit([NewTask(type="slow", params={"until": str(stack.home / "never")})])
    # The lane would wait for its task; the timeout of its task run comes first.
    monkeypatch.setattr("organism_flows.flows.dispatch.LANE_OVERTIME_S", 2.0)
    from prefect.exceptions import FailedRun

    with pytest.raises(FailedRun, match="lane-1"):
        await dispatch(max_seconds=1)
    task = await stack_queue.get(str(task_id))
    assert (task.status, task.attempts) == ("queued", 0)
    assert [a.cause for a in task.history] == ["interrupted"]
    assert await stack_queue.reader.lanes() == []
