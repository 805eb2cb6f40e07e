"""A run of the watchdog that goes on: checks again and again, is relieved, and is replaced when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.flow_engine import run_flow
from prefect.states import Cancelling, Crashed, Pending, Running

from organism_flows.blocks.queue import Queue
from organism_flows.deployments.stack import components
from organism_flows.flows.alerting.automations import SILENCE
from organism_flows.flows.alerting.transitions import SCANNED_EVENT
from organism_flows.flows.prefect_support.deployments import prefect_yaml
from organism_flows.flows.prefect_support.stale_runs import StaleRuns, clean_up_stale_runs
from organism_flows.flows.prefect_support.watchdog_relay import (
    LONGEST_S,
    WATCHDOG,
    replace_crashed,
    seconds_to_go_on,
)
from organism_flows.flows.watchdog import THOROUGH_INTERVAL_S, watchdog
from organism_flows.flows.watchdog.queue_check import WatchdogSummary, check
from tests.support.log_lines import LogLines
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_prefect", "sender")]


class Deployed:
    """The deployment of the watchdog, with one schedule far from due."""

    def __init__(self, deployment: Any) -> None:
        self.id = deployment

    async def begin(self, **parameters: Any) -> FlowRun:
        """Return a run that has begun, of which no process knows."""
        async with get_client() as client:
            run = await client.create_flow_run_from_deployment(
                self.id, parameters=parameters, state=Pending()
            )
            await client.set_flow_run_state(run.id, Running(), force=True)
            return await client.read_flow_run(run.id)

    async def others(self, *known: FlowRun) -> list[FlowRun]:
        """Return runs that somebody else has made."""
        async with get_client() as client:
            found = await client.read_flow_runs()
        return [
            run
            for run in found
            if run.deployment_id == self.id
            and not run.auto_scheduled
            and run.id not in {other.id for other in known}
        ]

    async def turn_off(self) -> None:
        async with get_client() as client:
            for schedule in (await client.read_deployment(self.id)).schedules:
                await client.update_deployment_schedule(self.id, schedule.id, active=False)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[tuple[FlowRun, asyncio.Task[State[Any]]]]:
        """Run the flow here, as a worker would, until somebody else ends it."""
        parameters = {"for_seconds": LONGEST_S, "oldest_ready_seconds": 1e9}
        async with get_client() as client:
            run = await client.create_flow_run_from_deployment(
                self.id, parameters=parameters, state=Pending()
            )
        running: Any = run_flow(watchdog, flow_run=run, parameters=parameters, return_type="state")
        task = asyncio.ensure_future(running)
        try:
            yield run, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def deployed(own_prefect: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Deployed]:
    monkeypatch.setenv("ORGANISM_WATCHDOG_INTERVAL", "1")
    every = IntervalSchedule(interval=timedelta(days=300), anchor_date=datetime.now(UTC))
    flow, _, name = WATCHDOG.partition("/")
    async with get_client() as client:
        assert watchdog.name == flow
        deployment = await client.create_deployment(
            await client.create_flow(watchdog),
            name=name,
            tags=["organism"],
            schedules=[DeploymentScheduleCreate(schedule=every, active=True)],
            enforce_parameter_schema=False,
        )
        yield Deployed(deployment)
        await client.delete_deployment(deployment)
        for run in await client.read_flow_runs():
            await client.delete_flow_run(run.id)


async def reaped(queue: Queue, lane: str) -> None:
    """Let a lane die, and return when the watchdog has deleted it."""
    await queue.leases.register(lane)
    await pool_of(queue).execute("UPDATE lanes SET lease_until = queue_now() - interval '1 s'")

    async def gone() -> bool:
        return await queue.reader.lanes() == []

    await until(gone)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What flow runs log."""
    handler = LogLines()
    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Awaitable[None]]:
    """Wait for so many more checks to end."""
    ended = asyncio.Semaphore(0)

    async def counted(*arguments: Any, **options: Any) -> WatchdogSummary:
        found = await check(*arguments, **options)
        ended.release()
        return found

    async def wait(more: int) -> None:
        while not ended.locked():
            await ended.acquire()
        for _ in range(more):
            await asyncio.wait_for(ended.acquire(), 60)

    monkeypatch.setattr("organism_flows.flows.watchdog.check", counted)
    return wait


@pytest.mark.soak
async def test_it_checks_again_and_again_until_a_younger_run_that_goes_on_has_begun(
    queue: Queue,
    deployed: Deployed,
    checks: Callable[[int], Awaitable[None]],
    logged: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cleaned_up: list[StaleRuns] = []

    async def clean_up(**options: Any) -> StaleRuns:
        cleaned_up.append(await clean_up_stale_runs(**options))
        return cleaned_up[-1]

    monkeypatch.setattr("organism_flows.flows.watchdog.queue_check.clean_up_stale_runs", clean_up)
    async with deployed.going_on() as (_, task):
        await reaped(queue, "one")
        await deployed.begin()  # by hand: it checks once
        await reaped(queue, "two")
        await reaped(queue, "three")
        await checks(4)
        assert not task.done(), (await task).message
        younger = await deployed.begin(for_seconds=60)
        state = await asyncio.wait_for(task, 60)
    done = await state.result()
    assert state.type == StateType.COMPLETED
    assert done.lanes_ended == 3, "what it found in all its checks"
    assert done.checks >= 4
    assert str(state.message).endswith(f"; {done.checks} checks, relieved by {younger.name}")
    assert str(state.message).startswith("3 lanes ended")
    found = [line for line in logged if line in ("all is well", "1 lanes ended")]
    assert found.count("1 lanes ended") == 3
    assert not any(a == b == "all is well" for a, b in pairwise(found)), found
    async with get_client() as client:
        wanted = EventFilter(event=EventNameFilter(name=[SCANNED_EVENT]))

        async def there() -> Any:
            return (await client.read_events(wanted, limit=50)).events

        assert len(await until(there)) == 1, "not one for each check"
    assert len(cleaned_up) == 1, "not once in each check"


async def test_it_leaves_when_its_schedule_is_turned_off(queue: Queue, deployed: Deployed) -> None:
    async with deployed.going_on() as (_, task):
        await reaped(queue, "one")
        await reaped(queue, "two")  # it has seen the schedule on
        await deployed.turn_off()
        state = await asyncio.wait_for(task, 60)
    assert str(state.message).endswith("its schedule was turned off")


@pytest.mark.soak
async def test_an_outage_of_postgres_is_a_failed_check_and_not_the_end(
    queue: Queue, deployed: Deployed, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    async with deployed.going_on() as (_, task):
        await reaped(queue, "one")
        with monkeypatch.context() as away:
            away.setenv("ORGANISM_DSN", "postgresql://me:hunter2@127.0.0.1:1/db")
            await until(lambda: any("a check failed: cannot reach Postgres" in line for line in logged))
        await reaped(queue, "two")
        await deployed.begin(for_seconds=60)
        state = await asyncio.wait_for(task, 60)
    done = await state.result()
    assert (done.lanes_ended, done.checks_failed >= 1) == (2, True)
    assert "checks failed" in str(state.message)


async def test_one_that_died_is_replaced_by_one_that_goes_on(queue: Queue, deployed: Deployed) -> None:
    dead = await deployed.begin(for_seconds=60, keep_failed_days=7)
    await replace_crashed(watchdog, dead, Crashed())
    [other] = await deployed.others(dead)
    assert other.parameters == {"for_seconds": 60, "keep_failed_days": 7}
    assert other.state is not None
    assert other.state.type == StateType.SCHEDULED


@pytest.mark.parametrize("why", ["once", pytest.param("cancelled", marks=pytest.mark.soak), "off"])
async def test_one_that_nobody_misses_is_not_replaced(queue: Queue, deployed: Deployed, why: str) -> None:
    dead = await deployed.begin(**({} if why == "once" else {"for_seconds": 60}))
    if why == "cancelled":
        async with get_client() as client:
            await client.set_flow_run_state(dead.id, Cancelling(), force=True)
    if why == "off":
        await deployed.turn_off()
    await replace_crashed(watchdog, dead, Crashed())
    assert await deployed.others(dead) == []


def test_a_run_of_the_schedule_goes_on_and_others_check_once() -> None:
    assert seconds_to_go_on({}, auto_scheduled=True) == LONGEST_S
    assert seconds_to_go_on({}, auto_scheduled=False) == 0
    assert seconds_to_go_on({"for_seconds": None}, auto_scheduled=True) == LONGEST_S
    assert seconds_to_go_on({"for_seconds": 0}, auto_scheduled=True) == 0
    assert seconds_to_go_on({"for_seconds": 7}, auto_scheduled=False) == 7


def test_no_gap_is_between_two_runs_of_the_schedule_and_none_is_taken_for_silence() -> None:
    from ruamel.yaml import YAML

    file = YAML(typ="safe").load(prefect_yaml().read_text())
    [mine] = [d for d in file["deployments"] if d["entrypoint"] == "organism_flows.flows.watchdog.watchdog"]
    assert mine["schedules"][0]["interval"] * 2 <= LONGEST_S
    assert mine["concurrency_limit"]["limit"] > 1, "the next begins while the one before goes on"
    assert SILENCE.total_seconds() > THOROUGH_INTERVAL_S * 2
    assert (components.WATCHDOG, components.WATCHDOG_LONGEST_S) == (WATCHDOG, LONGEST_S)
