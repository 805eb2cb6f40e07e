"""Transitions of alerts: an alert is reported when it begins and when it is over, and not in between.

Prefect's event feed stores what has been reported, so no other state has to be kept in step with it. An event
that got lost is reported at the next check. One that has left the feed (after 7 days, by Prefect's default)
is reported again if the alert still holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, cast, get_args

from prefect.client.orchestration import PrefectClient
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.events.schemas.events import ReceivedEvent
from pydantic import Field

from organism_flows.blocks.finding import Finding

Alert: TypeAlias = Literal["dispatch-missing", "dead-letters", "oldest-ready", "interrupted", "verify"]
ALERTS: tuple[Alert, ...] = get_args(Alert)
Step: TypeAlias = Literal["pending", "passed", "raised", "cleared"]
"""Step of an alert.

- ``pending``: wrong, but not for long enough to be raised.
- ``passed``: well again before it was raised.
- ``raised``: wrong.
- ``cleared``: well again after it was raised.
"""
PREFIX = "organism.alert"
SCANNED_EVENT = "organism.looked"
"""Event emitted every two minutes while the queue is checked. Its absence raises an alert.

The automations of every version wait for this name.
"""
SKEW = timedelta(days=1)
"""Largest lead of another reporter's clock over ours with which its events are still found."""
SEEN_AT_ONCE = 50
"""Most reports that are read together. Most alerts have a few in the feed, or none."""
HEARD_AFTER_S = 10.0
"""Time after which a new automation receives events, in seconds.

Prefect's server reads new automations every 5 s (3.8.8), and delivers nothing to them before.
"""


class AlertFinding(Finding):
    """Result of the check for one alert.

    ``failed`` raises the alert, and ``ok`` clears it. ``degraded`` means that the value lies inside the
    hysteresis band: the alert keeps its state.
    """

    check: Alert
    figures: dict[str, Any] = Field(default_factory=dict)
    patience_s: float = 0.0
    """Time for which it has to fail before the alert is raised, in seconds."""


@dataclass(frozen=True)
class LastNotification:
    """Last report of an alert."""

    step: Step
    since: datetime
    """When it began to be wrong."""
    text: str
    received: datetime
    """When the server received it, by the server's clock."""


def next_step(finding: AlertFinding, last: LastNotification | None, now: datetime) -> Step | None:
    """Return the step to report after ``last``, or `None` if there is nothing to report."""
    open_step = last.step if last is not None and last.step in ("pending", "raised") else None
    if finding.ok:
        return {"pending": "passed", "raised": "cleared", None: None}[open_step]
    if finding.status == "degraded" or open_step == "raised":
        return None
    if last is not None and open_step == "pending":
        return "raised" if (now - last.since).total_seconds() >= finding.patience_s else None
    return "pending" if finding.patience_s else "raised"


async def last_notifications(
    client: PrefectClient, alerts: Collection[Alert], queue: str
) -> dict[Alert, LastNotification]:
    """Return the last report of each alert about this queue that the event feed has one of."""
    newest = await _newest(client, alerts, queue, SEEN_AT_ONCE)
    last = dict(reversed(newest))
    if len(newest) == SEEN_AT_ONCE:  # reports of others may have crowded out those of an alert
        for alert in set(alerts) - last.keys():
            last |= dict(await _newest(client, [alert], queue, 1))
    return last


async def _newest(
    client: PrefectClient, alerts: Collection[Alert], queue: str, limit: int
) -> list[tuple[Alert, LastNotification]]:
    """Return the newest reports of any of these alerts, the newest first."""
    names = [f"{PREFIX}.{alert}.{step}" for alert in alerts for step in get_args(Step)]
    wanted = EventFilter(
        event=EventNameFilter(name=names),
        resource=EventResourceFilter(id=[_resource(queue)["prefect.resource.id"]]),
        occurred=EventOccurredFilter(until=datetime.now(UTC) + SKEW),
    )
    return [_read(event) for event in (await client.read_events(wanted, limit=limit)).events]


def _read(event: ReceivedEvent) -> tuple[Alert, LastNotification]:
    name, _, step = event.event.removeprefix(f"{PREFIX}.").rpartition(".")
    since = datetime.fromisoformat(event.payload["since"])
    text = event.payload["text"]
    return cast("Alert", name), LastNotification(cast("Step", step), since, text, event.received)


async def report(
    client: PrefectClient,
    queue: str,
    findings: Sequence[AlertFinding],
    now: datetime | None = None,
    changed: Mapping[Alert, datetime] | None = None,
) -> list[str]:
    """Emit events about alerts that have begun or ended, for automations to deliver.

    An alert that holds is reported again if the automation that delivers it is newer than the last report. So
    an alert that is switched on, or goes to another block, begins with what is wrong already.

    Args:
        client: Client of the Prefect server that the events go to.
        queue: Name of the Task Queue block that the checks are about.
        findings: Results of the checks, at most one for each alert.
        now: Current time, by the clock of the checks; `None` for this machine's.
        changed: When the automation of an alert was created or last changed, by the server's clock.

    Returns:
        What was reported, such as ``dead letters raised: 1,234 tasks have failed for good``.
    """
    now = now or datetime.now(UTC)
    lines = []
    reported = await last_notifications(client, [finding.check for finding in findings], queue)
    for finding in findings:
        last = reported.get(finding.check)
        since_change = (changed or {}).get(finding.check)
        unheard = last and last.step == "raised" and since_change and last.received < since_change
        step = "raised" if unheard and finding.status == "failed" else next_step(finding, last, now)
        if step is None:
            continue
        if since_change:
            age = (datetime.now(UTC) - since_change).total_seconds()
            await asyncio.sleep(min(max(HEARD_AFTER_S - age, 0), HEARD_AFTER_S))
        since = last.since if last is not None and last.step in ("pending", "raised") else now
        name = finding.check.replace("-", " ")
        over = step in ("cleared", "passed")
        text = f"{finding.evidence}; it was wrong for {_span(now - since)}" if over else finding.evidence
        emit_event(
            f"{PREFIX}.{finding.check}.{step}",
            resource=_resource(queue),
            payload={
                "subject": f"organism, queue {queue}: {name} {'well again' if over else 'alert'}",
                "text": text,
                "todo": "" if over else finding.action,
                "since": since.isoformat(),
                **finding.figures,
            },
        )
        lines.append(f"{name} {step}: {text}")
    return lines


def report_checked(queue: str) -> None:
    """Emit the event that the queue was checked and that everything wrong with it was reported."""
    emit_event(SCANNED_EVENT, resource=_resource(queue))


def _resource(queue: str) -> dict[str, str]:
    return {"prefect.resource.id": f"organism.queue.{queue}", "prefect.resource.name": queue}


def _span(time: timedelta) -> str:
    seconds = max(round(time.total_seconds()), 0)
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
