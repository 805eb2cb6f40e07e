"""Our triggers as Prefect's own evaluator takes them, in this process and with time passing at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.server.database import provide_database_interface
from prefect.server.database.dependencies import temporary_database_interface
from prefect.server.events import triggers
from prefect.server.events.schemas.automations import Automation, EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings
from sqlalchemy import Table

from organism_flows.flows.alerting.automations import SILENCE, wanted_automations

pytestmark = pytest.mark.anyio
START = datetime.now(UTC)
TAG = {"prefect.resource.id": "prefect.tag.organism", "prefect.resource.role": "tag"}


class Evaluator:
    """What our automations make of events."""

    def __init__(self) -> None:
        self.fired: list[str] = []
        """What automations were about and by what event."""

    async def act(self, firing: Any) -> None:
        event = firing.triggering_event
        self.fired.append(f"{firing.trigger.automation.name}: {event.event} of {event.resource.name}")

    async def event(self, name: str, resource: dict[str, str], related: list[Any], second: float) -> None:
        await triggers.reset_events_clock()  # else what comes late drags the time of all
        moment: Any = START + timedelta(seconds=second)
        await triggers.reactive_evaluation(
            ReceivedEvent(occurred=moment, event=name, resource=resource, related=related, id=uuid4())
        )

    async def looked(self, queue: str, second: float, *, deployed: bool = True) -> None:
        related = [of("flow", "watchdog"), *([TAG] if deployed else [])]
        resource = {"prefect.resource.id": f"organism.queue.{queue}", "prefect.resource.name": queue}
        await self.event("organism.looked", resource, related, second)

    async def ended(self, flow: str, state: str, second: float, *, deployed: bool = True) -> None:
        related = [of("flow", flow), of("deployment", flow), *([TAG] if deployed else [])]
        resource = {
            "prefect.resource.id": f"prefect.flow-run.{uuid4()}",
            "prefect.resource.name": flow,
            "prefect.state-type": state.upper(),
        }
        await self.event(f"prefect.flow-run.{state.title()}", resource, related, second)

    async def wait(self, second: float) -> None:
        await triggers.reset_events_clock()
        moment: Any = START + timedelta(seconds=second)
        for trigger in list(triggers.triggers.values()):
            if isinstance(trigger, EventTrigger) and trigger.posture.value == "Proactive":
                await triggers.proactive_evaluation(trigger, moment)


def of(role: str, name: str) -> dict[str, str]:
    return {
        "prefect.resource.id": f"prefect.{role}.{name}",
        "prefect.resource.role": role,
        "prefect.resource.name": name,
    }


@pytest.fixture
async def evaluator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Evaluator]:
    """With all our automations, in a database of its own."""
    url: Any = {PREFECT_SERVER_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{tmp_path}/prefect.db"}
    with temporary_settings(url), temporary_database_interface():
        database = provide_database_interface()
        # These and no more: all of Prefect's migrations take half a minute.
        kinds = (database.Automation, database.AutomationBucket, database.CompositeTriggerChildFiring)
        async with (await database.engine()).begin() as connection:
            for kind in kinds:
                table = kind.__table__
                assert isinstance(table, Table)
                await connection.run_sync(table.create)
        async with database.session_context(begin_transaction=True) as session:
            for wanted in wanted_automations(uuid4()):
                fields = wanted.model_dump(mode="json", exclude={"owner_resource"})
                automation = Automation.model_validate(fields)
                session.add(database.Automation(**automation.model_dump()))
                triggers.load_automation(automation)
        evaluator = Evaluator()
        monkeypatch.setattr(triggers, "act", evaluator.act)
        yield evaluator
        await triggers.reset()


async def test_a_watchdog_that_does_not_look_any_more_is_told_of_once(evaluator: Evaluator) -> None:
    silence = SILENCE.total_seconds()
    for second in range(0, 600, 30):
        await evaluator.looked("default", second)
        await evaluator.wait(second)
    await evaluator.looked("by-hand", 0, deployed=False)
    await evaluator.wait(570 + silence - 1)
    assert evaluator.fired == []
    for second in range(570 + int(silence), 4000, 300):
        await evaluator.wait(second)
    assert evaluator.fired == ["organism: watchdog silent: organism.looked of default"]


async def test_crashes_are_told_once_in_half_an_hour_for_each_deployment(evaluator: Evaluator) -> None:
    await evaluator.ended("verify", "failed", 0)
    await evaluator.ended("dispatch", "completed", 1)
    await evaluator.ended("somebody-elses", "crashed", 2, deployed=False)
    assert evaluator.fired == []
    await evaluator.ended("dispatch", "failed", 10)
    await evaluator.ended("dispatch", "crashed", 20)
    await evaluator.ended("verify", "crashed", 30)
    await evaluator.ended("dispatch", "crashed", 1700)
    await evaluator.ended("dispatch", "crashed", 1900)
    assert evaluator.fired == [
        "organism: run crashed: prefect.flow-run.Failed of dispatch",
        "organism: run crashed: prefect.flow-run.Crashed of verify",
        "organism: run crashed: prefect.flow-run.Crashed of dispatch",
    ]
