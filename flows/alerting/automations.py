"""Prefect automations that deliver alerts to a notification block: one for each alert, found by its name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import BlockDocument
from prefect.events.actions import SendNotification
from prefect.events.filters import AutomationFilter, AutomationFilterTags
from prefect.events.schemas.automations import (
    Automation,
    AutomationCore,
    CompoundTrigger,
    EventTrigger,
    Posture,
    TriggerTypes,
)
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.prefect_blocks.block_base import DEFAULT
from organism_flows.flows.alerting.transitions import ALERTS, PREFIX, SCANNED_EVENT, Alert, last_notifications
from organism_flows.flows.prefect_support.server import reaching_prefect
from organism_flows.flows.prefect_support.states import ORGANISM_TAG

TO_BE_NAMED = "name a notification block of your Prefect server: `organism alerts on --to slack-webhook/ops`"
QUIET = timedelta(minutes=30)
"""Time after a crash in which no other crash of the same deployment is reported: they tend to repeat."""
SILENCE = timedelta(minutes=5)
"""Time without a report of a check of the watchdog after which an alert is raised. It checks every 30 s."""
SUBJECT = "{{ event.payload.subject }}"
BODY = (
    "{{ event.payload.text }}{% if event.payload.todo %}\n→ {{ event.payload.todo }}{% endif %}\n"
    "{{ flow_run | ui_url }}"
)
RUN = "{{ event.resource['prefect.resource.name'] }}"
STATE = "{{ event.resource['prefect.state-name'] }}"
MESSAGE = "{{ event.resource['prefect.state-message'] | truncate(1000) }}"


class AlertState(BaseModel):
    """One of our automations, as it is on the server."""

    name: str
    on: bool
    """False if it was switched off by hand, in the UI."""
    to: str | None
    """Its notification block, such as ``slack-webhook/ops``; `None` if the block was deleted."""
    wrong: str | None = None
    """What is wrong with the queue ``default`` now, by the last report of this alert."""


class AlertsApplied(BaseModel):
    """Result of applying the automations: what was created or changed, and what exists now."""

    made: list[str] = []
    changed: list[str] = []
    alerts: list[AlertState] = []

    @property
    def line(self) -> str:
        """Return all of it on one line."""
        off = [alert.name for alert in self.alerts if not alert.on]
        done = [
            f"{len(names)} {what}"
            for names, what in ((self.made, "made"), (self.changed, "changed"))
            if names
        ]
        to = ", ".join(sorted({alert.to or "nowhere" for alert in self.alerts}))
        line = f"{', '.join(done) or 'as they were'}, {len(self.alerts)} alerts to {to}"
        return f"{line}; switched off by hand: {', '.join(off)}" if off else line


async def apply(to: str | None, *, silence: timedelta = SILENCE) -> AlertsApplied:
    """Create or update the automations. One that was switched off stays off. Safe to repeat.

    Args:
        to: The notification block, as ``type/name``; `None` for the one in use.
        silence: Time without a check of the watchdog after which an alert is raised; 10 s at least.

    Raises:
        ConfigurationError: There is no such block, it cannot send notifications, or none is named.
        OrganismError: The Prefect server cannot be reached, or refuses.
    """
    async with _server() as client:
        there = await _ours(client)
        block = await (_named(client, to) if to else _in_use(client, there))
        applied = AlertsApplied()
        for wanted in wanted_automations(block.id, silence):
            found = there.pop(wanted.name, None)
            if found is None:
                await client.create_automation(wanted)
                applied.made.append(wanted.name)
            elif not _alike(found, wanted):
                # Prefect 3.8.8 does not send fields that are not set, and refuses an owner.
                fields = wanted.model_dump(exclude={"owner_resource"}) | {"enabled": found.enabled}
                await client.update_automation(found.id, AutomationCore.model_validate(fields))
                applied.changed.append(wanted.name)
        applied.alerts = await _states(client)
        return applied


async def remove() -> list[str]:
    """Delete our automations, and return their names.

    Raises:
        OrganismError: The Prefect server cannot be reached, or refuses.
    """
    async with _server() as client:
        there = await _ours(client)
        for automation in there.values():
            await client.delete_automation(automation.id)
        return sorted(there)


async def changed_at(client: PrefectClient) -> dict[Alert, datetime]:
    """Return when the automation of each alert that has one, and is on, was made or last changed."""
    there = await _ours(client)
    found = {alert: there.get(_name_for(alert)) for alert in ALERTS}
    return {
        alert: automation.updated for alert, automation in found.items() if automation and automation.enabled
    }


async def state() -> list[AlertState]:
    """Return our automations as they are on the server.

    Raises:
        OrganismError: The Prefect server cannot be reached, or refuses.
    """
    async with _server() as client:
        return await _states(client)


def wanted_automations(block: UUID, silence: timedelta = SILENCE) -> list[AutomationCore]:
    """Return the automations as they should be, delivering to the block with this id."""
    return [
        _automation(
            block,
            "organism: run crashed",
            "A run of ours crashed, or one of dispatch failed. One report per deployment in half an hour.",
            CompoundTrigger(
                require="any",
                # Each trigger has a quiet time of its own, so no run may match both.
                triggers=[
                    _runs_that("!dispatch", ["CRASHED"]),
                    _runs_that("dispatch", ["CRASHED", "FAILED"]),
                ],
            ),
            f"organism: {{{{ flow.name }}}} {STATE}",
            f"{RUN}: {MESSAGE}\n→ its tasks go back to the queue; see what is wrong: organism verify\n"
            "{{ flow_run | ui_url }}",
        ),
        _reported(block, "dispatch-missing", "No lane claims tasks although the schedule of dispatch is on."),
        _reported(block, "verify", "A check of verify has begun to fail."),
        _reported(block, "dead-letters", "More tasks have failed for good than ORGANISM_ALERT_DEAD_LETTERS."),
        _reported(block, "oldest-ready", "A task is ready for longer than ORGANISM_ALERT_OLDEST_READY."),
        _reported(block, "interrupted", "Tasks are interrupted again and again, and do not end."),
        _automation(
            block,
            "organism: watchdog silent",
            "No watchdog has checked the queue for some minutes: without it little else is noticed.",
            # Not Prefect's own events of the watchdog's runs: those of a run that starts within 5 minutes of
            # being scheduled wait 15 minutes for an event that never comes (Prefect 3.8.8).
            EventTrigger(
                after={SCANNED_EVENT},
                expect={SCANNED_EVENT},
                match=ResourceSpecification({"prefect.resource.id": "organism.queue.*"}),
                match_related=_of_ours("watchdog"),
                # With `for_each` empty Prefect would not wait for the first event.
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=silence,
            ),
            "organism, queue {{ event.resource['prefect.resource.name'] }}: the watchdog is silent",
            "no watchdog has checked the queue since "
            "{{ event.occurred.strftime('%Y-%m-%d %H:%M:%S %Z') }}\n"
            "→ see that a worker serves the work pool, that its schedule is on, and why runs fail: "
            "organism verify\n{{ flow_run | ui_url }}",
        ),
    ]


def _reported(block: UUID, alert: Alert, description: str) -> AutomationCore:
    """Return the automation for an alert that the watchdog or verify reports in events."""
    trigger = EventTrigger(
        expect={f"{PREFIX}.{alert}.raised", f"{PREFIX}.{alert}.cleared"},
        match=ResourceSpecification({"prefect.resource.id": "organism.queue.*"}),
        posture=Posture.Reactive,
        threshold=1,
    )
    return _automation(block, _name_for(alert), description, trigger, SUBJECT, BODY)


def _runs_that(flow: str, types: list[str]) -> EventTrigger:
    """Return a trigger for runs of our deployments of a flow that end in a state of these types.

    The name of the state does not matter.
    """
    return EventTrigger(
        expect={"prefect.flow-run.*"},
        match=ResourceSpecification(
            {"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": types}
        ),
        match_related=_of_ours(flow),
        for_each={"related:deployment:prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=QUIET,
    )


def _of_ours(flow: str) -> list[ResourceSpecification]:
    tag = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{ORGANISM_TAG}"}
    named = {"prefect.resource.role": "flow", "prefect.resource.name": flow}
    return [ResourceSpecification(tag), ResourceSpecification(named)]


def _automation(
    block: UUID, name: str, description: str, trigger: TriggerTypes, subject: str, body: str
) -> AutomationCore:
    return AutomationCore(
        name=name,
        description=description,
        tags=[ORGANISM_TAG],
        trigger=trigger,
        actions=[SendNotification(block_document_id=block, subject=subject, body=body)],
    )


class _Found(Automation):
    updated: datetime


def _name_for(alert: Alert) -> str:
    return f"organism: {alert.replace('-', ' ')}"


def _alike(found: Automation, wanted: AutomationCore) -> bool:
    return all(
        getattr(found, name) == getattr(wanted, name) for name in ("description", "trigger", "actions")
    )


async def _ours(client: PrefectClient) -> dict[str, _Found]:
    """Return the automations that have a name of ours, by name."""
    names = {wanted.name for wanted in wanted_automations(UUID(int=0))}
    tagged = AutomationFilter(tags=AutomationFilterTags(all_=[ORGANISM_TAG]))
    # Not `read_automations`, which drops the time of the last change (Prefect 3.8.8).
    wanted = {"automations": tagged.model_dump(mode="json"), "limit": 200}
    answer = await client.request("POST", "/automations/filter", json=wanted)
    found = [_Found.model_validate(automation) for automation in answer.json()]
    return {automation.name: automation for automation in found if automation.name in names}


async def _states(client: PrefectClient) -> list[AlertState]:
    there = await _ours(client)
    last = await last_notifications(client, ALERTS, DEFAULT)
    wrong = {_name_for(alert): report.text for alert, report in last.items() if report.step == "raised"}
    blocks = {block: await _name_of(client, block) for block in map(_block_of, there.values())}
    return [
        AlertState(name=name, on=automation.enabled, to=blocks[_block_of(automation)], wrong=wrong.get(name))
        for name, automation in sorted(there.items())
    ]


def _block_of(automation: Automation) -> UUID | None:
    return next((a.block_document_id for a in automation.actions if isinstance(a, SendNotification)), None)


async def _name_of(client: PrefectClient, block: UUID | None) -> str | None:
    if block is None:
        return None
    try:
        return _name(await client.read_block_document(block, include_secrets=False))
    except ObjectNotFound:
        return None


def _name(document: BlockDocument) -> str:
    slug = document.block_type.slug if document.block_type else "?"
    return f"{slug}/{document.name}"


async def _named(client: PrefectClient, to: str) -> BlockDocument:
    slug, _, name = to.partition("/")
    try:
        document = await client.read_block_document_by_name(name, slug, include_secrets=False)
    except ObjectNotFound:
        raise ConfigurationError(
            f"there is no block {to} on this Prefect server", await _hint(client)
        ) from None
    if not _notifies(document):
        raise ConfigurationError(
            f"the block {to} cannot send notifications: its type has no `notify`", await _hint(client)
        )
    return document


async def _in_use(client: PrefectClient, there: Mapping[str, Automation]) -> BlockDocument:
    for block in {_block_of(automation) for automation in there.values()} - {None}:
        try:
            return await client.read_block_document(block, include_secrets=False)  # type: ignore[arg-type]
        except ObjectNotFound:
            continue
    raise ConfigurationError("no notification block is named for alerts", TO_BE_NAMED)


async def _hint(client: PrefectClient) -> str:
    documents = await client.read_block_documents(limit=200, include_secrets=False)
    names = sorted(_name(document) for document in documents if document.name and _notifies(document))
    if names:
        return f"there are {', '.join(names[:5])}; or make one under Blocks in the Prefect UI"
    return "make one under Blocks in the Prefect UI: Slack Webhook, Custom Webhook, …"


def _notifies(document: BlockDocument) -> bool:
    return document.block_schema is not None and "notify" in document.block_schema.capabilities


@asynccontextmanager
async def _server() -> AsyncIterator[PrefectClient]:
    """Yield a client of the configured server, and turn its failures into errors on one line."""
    with reaching_prefect():
        async with get_client() as client:
            yield client
