"""An alert is said when it begins and when it is over, and not in between.

Prefect's event feed is the memory of what has been said, so there is nothing to keep in step with it: an
event that got lost is simply said at the next look, and one that has left the feed (after 7 days, by
Prefect's default) is said again if it is still so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, get_args

from prefect.client.orchestration import PrefectClient
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter

Alert: TypeAlias = Literal["dispatch-missing", "dead-letters", "oldest-ready", "interrupted", "verify"]
ALERTS: tuple[Alert, ...] = get_args(Alert)
Step: TypeAlias = Literal["pending", "passed", "raised", "cleared"]
"""Wrong, and not for long enough; well before it was raised; wrong; well again."""
PREFIX = "organism.alert"
SCANNED_EVENT = "organism.looked"
"""Said every two minutes while the queue is looked at, so that its absence can be told."""
SKEW = timedelta(days=1)
"""Whoever spoke last may have a clock that is ahead of ours."""
HEARD_AFTER_S = 10.0
"""Prefect's server looks for new automations every 5 s (3.8.8); until then it delivers nothing to them."""


@dataclass(frozen=True)
class AlertCheck:
    """What one look at one thing found."""

    alert: Alert
    wrong: bool | None
    """None: hardly well, hardly wrong; what was said of it stays."""
    text: str
    """What was seen, with the figure, on one line."""
    todo: str
    """What to do if it is wrong."""
    figures: dict[str, Any] = field(default_factory=dict)
    patience_s: float = 0.0
    """It is raised when it has been wrong for so long (seconds)."""


@dataclass(frozen=True)
class LastNotification:
    """The last that was said of an alert."""

    step: Step
    since: datetime
    """When it began to be wrong."""
    text: str
    received: datetime
    """When the server had it, by the server's clock."""


def next_step(look: AlertCheck, last: LastNotification | None, now: datetime) -> Step | None:
    """What is to be said after ``last``, if anything."""
    open_step = last.step if last is not None and last.step in ("pending", "raised") else None
    if look.wrong is False:
        return {"pending": "passed", "raised": "cleared", None: None}[open_step]
    if look.wrong is None or open_step == "raised":
        return None
    if last is not None and open_step == "pending":
        return "raised" if (now - last.since).total_seconds() >= look.patience_s else None
    return "pending" if look.patience_s else "raised"


async def last_said(client: PrefectClient, alert: Alert, queue: str) -> LastNotification | None:
    """The last that was said of an alert about the queue of this name, as far as the feed goes back."""
    wanted = EventFilter(
        event=EventNameFilter(name=[f"{PREFIX}.{alert}.{step}" for step in get_args(Step)]),
        resource=EventResourceFilter(id=[_resource(queue)["prefect.resource.id"]]),
        occurred=EventOccurredFilter(until=datetime.now(UTC) + SKEW),
    )
    events = (await client.read_events(wanted, limit=1)).events
    if not events:
        return None
    [event] = events
    said: Any = event.event.rpartition(".")[2]
    since = datetime.fromisoformat(event.payload["since"])
    return LastNotification(said, since, event.payload["text"], event.received)


async def tell(
    client: PrefectClient,
    queue: str,
    looks: Sequence[AlertCheck],
    now: datetime | None = None,
    changed: Mapping[Alert, datetime] | None = None,
) -> list[str]:
    """Say in events what has begun or ended, for automations to deliver.

    What is wrong is said again if the automation that delivers it is newer than what was said: alerts that
    are switched on, or go elsewhere from now on, begin with what is wrong already.

    Args:
        client: Of the Prefect server the events go to.
        queue: Name of the Task Queue block the looks are about.
        looks: What was found now, at most one of each alert.
        now: The time by the clock that measures; None: this machine's.
        changed: When the automation of an alert was made or last changed, by the server's clock.

    Returns:
        What was said: ``dead letters raised: 1,234 tasks have failed for good``.
    """
    now = now or datetime.now(UTC)
    lines = []
    for look in looks:
        last = await last_said(client, look.alert, queue)
        since_change = (changed or {}).get(look.alert)
        unheard = last and last.step == "raised" and since_change and last.received < since_change
        step = "raised" if unheard and look.wrong else next_step(look, last, now)
        if step is None:
            continue
        if since_change:
            age = (datetime.now(UTC) - since_change).total_seconds()
            await asyncio.sleep(min(max(HEARD_AFTER_S - age, 0), HEARD_AFTER_S))
        since = last.since if last is not None and last.step in ("pending", "raised") else now
        name = look.alert.replace("-", " ")
        over = step in ("cleared", "passed")
        text = f"{look.text}; it was wrong for {_span(now - since)}" if over else look.text
        emit_event(
            f"{PREFIX}.{look.alert}.{step}",
            resource=_resource(queue),
            payload={
                "subject": f"organism, queue {queue}: {name} {'well again' if over else 'alert'}",
                "text": text,
                "todo": "" if over else look.todo,
                "since": since.isoformat(),
                **look.figures,
            },
        )
        lines.append(f"{name} {step}: {text}")
    return lines


def say_looked(queue: str) -> None:
    """Say that the queue has been looked at, and that whatever is wrong with it has been said."""
    emit_event(SCANNED_EVENT, resource=_resource(queue))


def _resource(queue: str) -> dict[str, str]:
    return {"prefect.resource.id": f"organism.queue.{queue}", "prefect.resource.name": queue}


def _span(time: timedelta) -> str:
    seconds = max(round(time.total_seconds()), 0)
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
