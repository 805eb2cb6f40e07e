"""Alerts as they arrive: real flows on the real stack, Prefect's own automations, a receiver that listens."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prefect import tags
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import State
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.states import Crashed, Failed, Scheduled
from pydantic import SecretStr

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.alerting import automations, checks, transitions
from organism_flows.flows.dispatch import dispatch
from organism_flows.flows.redrive import redrive
from organism_flows.flows.verify import verify
from organism_flows.flows.watchdog import watchdog
from tests.support.flows.receiver import TO, Receiver
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack]
ALL = {
    f"organism: {name}"
    for name in (
        "dead letters",
        "dispatch missing",
        "interrupted",
        "oldest ready",
        "run crashed",
        "verify",
        "watchdog silent",
    )
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def block(stack: Stack, sender: None, receiver: Receiver) -> AsyncIterator[str]:
    """A notification block of a stock type, and no automation of ours before or after."""
    await receiver.save_block()
    await automations.remove()
    yield TO
    await automations.remove()


async def deployed(flow: Any, *, scheduled: bool = False) -> Any:
    """Id of a deployment as `organism deploy` makes it."""
    every = IntervalSchedule(interval=timedelta(minutes=5))
    schedules = [DeploymentScheduleCreate(schedule=every, active=True)] if scheduled else []
    async with get_client() as client:
        flow_id = await client.create_flow(flow)
        return await client.create_deployment(
            flow_id, name="organism", tags=["organism"], schedules=schedules
        )


async def events(words: str) -> list[Any]:
    """Those of ours in the feed whose name ends so."""
    async with get_client() as client:
        named = EventFilter(event=EventNameFilter(prefix=["organism.alert."]))
        found = (await client.read_events(named, limit=50)).events
    return [event for event in found if event.event.endswith(words)]


async def dead_letters(queue: Queue, count: int) -> None:
    await queue.submit([NewTask(type="t")] * count)
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error="boom"))
    await queue.leases.deregister("lane")


async def test_applying_again_changes_nothing_and_what_was_switched_off_stays_off(
    stack: Stack, block: str
) -> None:
    made = stack.run("alerts", "on", "--to", block)
    assert set(made["made"]) == ALL
    assert {(alert["on"], alert["to"]) for alert in made["alerts"]} == {(True, TO)}

    async def stamps() -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{stack.prefect_api}/automations/filter", json={})
        return {automation["name"]: automation["updated"] for automation in answer.json()}

    before = await stamps()
    again = await automations.apply(None)
    assert (again.made, again.changed) == ([], [])
    assert await stamps() == before

    async with get_client() as client:
        [verify_alert] = await client.read_automations_by_name("organism: verify")
        await client.pause_automation(verify_alert.id)
    changed = await automations.apply(block, silence=timedelta(seconds=30))
    assert changed.changed == ["organism: watchdog silent"]
    await CustomWebhookNotificationBlock(name="x", url="http://127.0.0.1:1").asave("other", overwrite=True)
    moved = await automations.apply("custom-webhook/other")
    assert set(moved.changed) == ALL
    assert {alert.name: alert.on for alert in moved.alerts if not alert.on} == {"organism: verify": False}
    assert "switched off by hand: organism: verify" in moved.line
    assert set(await automations.remove()) == ALL
    assert await automations.state() == []


async def test_a_block_that_cannot_deliver_is_named_with_those_that_can(stack: Stack, block: str) -> None:
    for to in ("slack-webhook/nowhere", "task-queue/default", None):
        with pytest.raises(ConfigurationError) as refused:
            await automations.apply(to)
        assert (to or "no notification block is named") in refused.value.what
        assert (TO if to else "organism alerts on --to") in refused.value.next_step
    assert await automations.state() == []


async def test_what_the_watchdog_finds_is_delivered_once_and_that_it_is_over(
    stack_queue: Queue, block: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fewer than there are alerts: what is not among the newest reports is asked for by itself.
    monkeypatch.setattr(transitions, "SEEN_AT_ONCE", 2)
    await automations.apply(block)
    patient: Any = {"missing_seconds": 1.0, "dead_letters": 2, "oldest_ready_seconds": 3600.0}

    await dead_letters(stack_queue, 3)
    first = await watchdog(**patient)
    assert first.alerts == ["dead letters raised: 3 tasks have failed for good, the limit is 2"]
    text = await receiver.next("dead letters")
    assert text.startswith(
        "organism, queue default: dead letters alert\n3 tasks have failed for good, the limit is 2\n"
    )
    assert "organism redrive" in text
    assert "/runs/flow-run/" in text
    await until(lambda: events("dead-letters.raised"))
    assert (await watchdog(**patient)).alerts == []
    wrong = {alert.name: alert.wrong for alert in await automations.state() if alert.wrong}
    assert wrong == {"organism: dead letters": "3 tasks have failed for good, the limit is 2"}

    run = await deployed(dispatch, scheduled=True)
    async with get_client() as client:
        for was_due, ago in ((False, timedelta(hours=1)), (True, timedelta())):
            due: State[Any] = Scheduled(scheduled_time=datetime.now(UTC) - ago)
            await client.create_flow_run_from_deployment(run, state=due)
            assert await checks.dispatch_is_due(client, "default") is was_due, "not since it was switched on"
    assert (await watchdog(**patient)).alerts[0].startswith("dispatch missing pending")
    [pending] = await until(lambda: events("dispatch-missing.pending"))
    assert pending.resource.id == "organism.queue.default"
    patience = timedelta(seconds=patient["missing_seconds"])
    await until(lambda: datetime.now(UTC) - pending.occurred > patience)

    await redrive(type="t", dry_run=False)
    await pool_of(stack_queue).execute("UPDATE tasks SET created_at = created_at - interval '2 hours'")
    await pool_of(stack_queue).execute("UPDATE tasks SET run_after = created_at")
    third = await watchdog(**patient)
    assert {line.partition(":")[0] for line in third.alerts} == {
        "dead letters cleared",
        "oldest ready raised",
        "dispatch missing raised",
    }
    assert "0 tasks have failed for good, the limit is 2; it was wrong for" in await receiver.next(
        "dead letters well again"
    )
    assert "the oldest ready task has waited for 7,2" in await receiver.next("oldest ready alert")
    missing = await receiver.next("dispatch missing alert")
    assert "no lane has claimed for 1 s, though dispatch/organism is scheduled and a run was due" in missing

    await until(lambda: events("dispatch-missing.raised"))
    await stack_queue.leases.register("lane")
    fourth = await watchdog(**patient)
    assert [line.partition(":")[0] for line in fourth.alerts] == ["dispatch missing cleared"]
    assert "1 lanes claim tasks; it was wrong for" in await receiver.next("dispatch missing well again")
    await until(lambda: events("dispatch-missing.cleared"))
    await pool_of(stack_queue).execute("TRUNCATE tasks CASCADE")
    assert [line.partition(":")[0] for line in (await watchdog(**patient)).alerts] == ["oldest ready cleared"]
    await receiver.next("oldest ready well again")
    await until(lambda: events("oldest-ready.cleared"))
    assert receiver.messages == [], "nothing was said twice"
    async with get_client() as client:
        await client.delete_deployment(run)


@pytest.mark.soak
async def test_what_was_wrong_before_alerts_were_switched_on_is_delivered(
    stack_queue: Queue, block: str, receiver: Receiver
) -> None:
    await TaskQueue(dsn=SecretStr(stack_queue.dsn)).asave("before", overwrite=True)
    await dead_letters(stack_queue, 3)
    assert (await watchdog(queue="before", dead_letters=2)).alerts
    await until(lambda: events("dead-letters.raised"))
    # Prefect's server hears of new automations a moment later, and what is said at once would be lost.
    await automations.apply(block)
    first = await watchdog(queue="before", dead_letters=2)
    assert first.alerts == ["dead letters raised: 3 tasks have failed for good, the limit is 2"]
    await receiver.next("queue before: dead letters")
    # The feed is written a moment after automations have seen the event.
    resource = "organism.queue.before"

    async def said_twice() -> bool:
        found = await events("dead-letters.raised")
        return len([event for event in found if event.resource.id == resource]) == 2

    await until(said_twice)
    assert (await watchdog(queue="before", dead_letters=2)).alerts == []


@pytest.mark.soak
async def test_crashes_a_silent_watchdog_and_a_failed_verify_are_delivered(
    stack_queue: Queue, block: str, receiver: Receiver
) -> None:
    await TaskQueue(dsn=SecretStr(stack_queue.dsn)).asave("watched", overwrite=True)
    await automations.apply(block, silence=timedelta(seconds=10))
    # Prefect's server loads automations a moment after they were made, and no run's end is told twice: the
    # first is loaded once a later one has delivered something.
    await TaskQueue(dsn=SecretStr(stack_queue.dsn)).asave("loaded", overwrite=True)
    await dead_letters(stack_queue, 1)
    await watchdog(queue="loaded", dead_letters=0)  # of nobody's deployment: nothing is expected of it
    await receiver.next("queue loaded: dead letters alert")
    with tags("organism"):
        await watchdog(queue="watched")
    ids = [await deployed(flow) for flow in (dispatch, verify)]
    run_of_dispatch, run_of_verify = ids
    async with get_client() as client:

        async def ends(deployment: Any, state: Any) -> None:
            run = await client.create_flow_run_from_deployment(deployment)
            await client.set_flow_run_state(run.id, state, force=True)

        await ends(run_of_verify, Failed(message="it says so itself"))
        await ends(run_of_dispatch, Failed(message="lanes could not be kept running"))
        await ends(run_of_dispatch, Crashed(message="a second one within half an hour"))
        await ends(run_of_verify, Crashed(message="killed by signal 9"))
    failed = await receiver.next("organism: dispatch Failed")
    assert "lanes could not be kept running" in failed
    assert "organism verify" in failed
    assert "killed by signal 9" in await receiver.next("organism: verify Crashed")

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"postgresql://me:hunter2@127.0.0.1:{closed.getsockname()[1]}/none"
        await TaskQueue(dsn=SecretStr(nowhere)).asave("breaks", overwrite=True)
        with pytest.raises(Exception, match="postgres: reachable failed"):
            await verify(canary=False, queue="breaks")
    text = await receiver.next("queue breaks: verify alert")
    assert "postgres: reachable: cannot reach Postgres at 127.0.0.1" in text
    assert "hunter2" not in text
    await until(lambda: events("verify.raised"))
    await TaskQueue(dsn=SecretStr(stack_queue.dsn)).asave("breaks", overwrite=True)
    await verify(canary=False, queue="breaks")
    assert "no check fails any more" in await receiver.next("queue breaks: verify well again")

    silent = await receiver.next("queue watched: the watchdog is silent", patience=60)
    assert "no watchdog has checked the queue since" in silent
    assert receiver.messages == []
    async with get_client() as client:
        for deployment in ids:
            await client.delete_deployment(deployment)
