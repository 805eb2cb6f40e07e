"""The watchdog starts dispatch when nobody claims: a real Postgres, and a Prefect server for the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import State
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Pending, Running, Scheduled
from pydantic import SecretStr

from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.dispatch import dispatch
from organism_flows.flows.watchdog import watchdog
from organism_flows.flows.watchdog.dispatch_restart import Restart, start_missing_dispatch
from tests.support.flows.moments import known
from tests.support.queue.helpers import claim
from tests.support.sql import pool_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_prefect")]
RELAY = {"relay": True}


class Deployed:
    """The deployment of dispatch, with one schedule far from due."""

    def __init__(self, id: UUID) -> None:
        self.id = id

    @classmethod
    async def with_schedule(
        cls, parameters: dict[str, Any], *, active: bool = True, of_deployment: dict[str, Any] | None = None
    ) -> Deployed:
        every = IntervalSchedule(interval=timedelta(days=300), anchor_date=datetime.now(UTC))
        # As in a prefect.yaml: what the flow of the tests' version does not know of is not checked here.
        schedule = DeploymentScheduleCreate(schedule=every, active=active, parameters=parameters)
        async with get_client() as client:
            flow_id = await client.create_flow(dispatch)
            return cls(
                await client.create_deployment(
                    flow_id,
                    name="organism",
                    tags=["organism"],
                    schedules=[schedule],
                    parameters=of_deployment or {},
                    enforce_parameter_schema=False,
                )
            )

    async def run(self, state: Any) -> None:
        async with get_client() as client:
            run = await client.create_flow_run_from_deployment(self.id, state=Pending())
            await client.set_flow_run_state(run.id, state, force=True)

    async def runs(self) -> list[Any]:
        """Those that are due, the newest first."""
        mine = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[self.id]))
        async with get_client() as client:
            found = await client.read_flow_runs(flow_run_filter=mine)
        now = datetime.now(UTC) + timedelta(seconds=5)
        return sorted(
            (r for r in found if known(r.expected_start_time) < now),
            key=lambda r: known(r.created),
            reverse=True,
        )


@pytest.fixture(autouse=True)
async def _none_before(own_prefect: None) -> AsyncIterator[None]:
    yield
    async with get_client() as client:
        for deployment in await client.read_deployments():
            await client.delete_deployment(deployment.id)
        for run in await client.read_flow_runs():
            await client.delete_flow_run(run.id)


async def test_a_run_is_started_at_once_with_the_parameters_of_the_schedule(queue: Queue) -> None:
    deployed = await Deployed.with_schedule({"relay": True, "lanes": 3}, of_deployment={"batch_size": 7})
    assert await deployed.runs() == []
    done = await watchdog()
    [run] = await deployed.runs()
    assert done.dispatch_started == [run.name]
    assert run.parameters == {"relay": True, "lanes": 3, "batch_size": 7}
    assert (await watchdog()).dispatch_started == [], "it waits for a worker"
    assert len(await deployed.runs()) == 1


async def test_the_line_says_so(queue: Queue) -> None:
    deployed = await Deployed.with_schedule(RELAY)
    await watchdog()
    [run] = await deployed.runs()
    async with get_client() as client:
        mine = max(
            (r for r in await client.read_flow_runs() if r.name.startswith("watchdog")),
            key=lambda r: known(r.created),
        )
    assert mine.state is not None
    assert f"no lane claimed tasks: started {run.name}" in (mine.state.message or "")


async def test_not_while_a_lane_claims_but_while_all_of_them_leave(queue: Queue) -> None:
    deployed = await Deployed.with_schedule(RELAY)
    await queue.leases.register("lane", run="run")
    assert await start_missing_dispatch(await queue.reader.lanes(), "default") == Restart()
    await queue.operator.request_leave("run")
    assert (await start_missing_dispatch(await queue.reader.lanes(), "default")).run is not None
    assert len(await deployed.runs()) == 1


async def test_when_its_process_was_killed_the_dead_lane_and_run_are_not_waited_for(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = await Deployed.with_schedule(RELAY)
    await queue.submit([NewTask(type="t")])
    await claim(queue, "dead")
    await deployed.run(Running())
    monkeypatch.setattr("organism_flows.flows.watchdog.dispatch_restart.BEGINS_WITHIN_S", 0.0)
    assert (await watchdog()).dispatch_started == [], "its lease has not passed"
    await pool_of(queue).execute("UPDATE lanes SET lease_until = queue_now() - interval '1 s'")
    done = await watchdog()
    assert (done.tasks_taken_back, len(done.dispatch_started)) == (1, 1)


@pytest.mark.parametrize("state", ["pending", "running", "due", "late"])
async def test_a_run_that_is_about_to_begin_is_waited_for(
    queue: Queue, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = await Deployed.with_schedule(RELAY)
    now = datetime.now(UTC)
    states: dict[str, State[Any]] = {
        "pending": Pending(),
        "running": Running(),
        "due": Scheduled(scheduled_time=now),
        "late": Scheduled(name="Late", scheduled_time=now),
    }
    await deployed.run(states[state])
    assert await start_missing_dispatch([], "default") == Restart()
    monkeypatch.setattr("organism_flows.flows.watchdog.dispatch_restart.BEGINS_WITHIN_S", 0.0)
    restart = await start_missing_dispatch([], "default")
    assert (restart.run is not None) is (state in ("pending", "running"))


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        (RELAY, {"active": False}),
        ({}, {}),
        ({"relay": False}, {}),
        ({"relay": True, "queue": "other"}, {}),
        (RELAY, {"of_deployment": {"queue": "other"}}),
    ],
)
async def test_not_unless_its_schedule_is_on_and_starts_relays_for_this_queue(
    queue: Queue, parameters: dict[str, Any], options: dict[str, Any]
) -> None:
    deployed = await Deployed.with_schedule(parameters, **options)
    assert await start_missing_dispatch([], "default") == Restart()
    assert await deployed.runs() == []


async def test_not_while_the_deployment_is_paused_and_not_without_one(queue: Queue) -> None:
    assert await start_missing_dispatch([], "default") == Restart()
    deployed = await Deployed.with_schedule(RELAY)
    async with get_client() as client:
        await client.pause_deployment(deployed.id)
    assert await start_missing_dispatch([], "default") == Restart()


async def test_a_server_that_is_away_is_one_line() -> None:
    away: Any = {PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(away):
        restart = await start_missing_dispatch([], "default")
    assert restart.run is None
    assert (restart.trouble or "").startswith("dispatch was not started: the Prefect server at")


async def test_a_lane_that_leaves_is_no_dispatch_for_the_alert_either(queue: Queue) -> None:
    # Of a name of its own: what has been said of a queue stays in the feed of events.
    await TaskQueue(dsn=SecretStr(queue.dsn)).asave("leaving", overwrite=True)
    deployed = await Deployed.with_schedule({}, of_deployment={"queue": "leaving"})
    await deployed.run(Running())
    await queue.leases.register("lane", run="run")
    assert (await watchdog(queue="leaving")).alerts == []
    await queue.operator.request_leave("run")
    [line] = (await watchdog(queue="leaving")).alerts
    assert line.startswith("dispatch missing pending: no lane has claimed for 120 s")


async def test_the_watchdog_says_what_should_be_known_of_running_work(queue: Queue) -> None:
    await TaskQueue(dsn=SecretStr(queue.dsn)).asave("noted", overwrite=True)
    await queue.leases.register("lane", run="run")
    await queue.submit([NewTask(type="t")])
    for _ in range(3):
        batch = await claim(queue)
        await queue.claims.release("lane", batch, cause="interrupted", error="x", suspicion=1)
    await claim(queue)
    await queue.operator.request_leave("run")
    done = await watchdog(queue="noted", interrupted=1)
    assert (done.suspects, done.interrupted, done.lanes_leaving, done.handed_over) == (1, 1, 1, 0)
    assert done.copies is None, "nobody says where the organism is"
    assert len(done.notes) == 3
    assert done.alerts == []
    assert [line.partition(":")[0] for line in (await watchdog(queue="noted")).alerts] == [
        "interrupted raised"
    ]
    async with get_client() as client:
        runs = [r for r in await client.read_flow_runs() if r.name.startswith("watchdog")]
    first = min(runs, key=lambda r: known(r.created))
    assert first.state is not None
    assert (first.state.message or "").startswith(
        "nothing to do; 1 suspect runs in a process of its own; 1 lane leaves since "
    )
