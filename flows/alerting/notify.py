"""Reports alerts for the flows: the watchdog's about the queue, and verify's about its findings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prefect.client.orchestration import PrefectClient
from pydantic import BaseModel

from organism_flows.blocks.errors import PrefectUnavailable
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.settings import load_settings
from organism_flows.flows.alerting import checks
from organism_flows.flows.alerting.automations import changed_at
from organism_flows.flows.alerting.transitions import report, report_checked
from organism_flows.flows.prefect_support.server import prefect_client
from organism_flows.flows.verification.verification import Verification

NOTIFY_TIMEOUT_S = 30.0


class NotifyResult(BaseModel):
    """The lines that were reported, or the reason why none could be."""

    reported: list[str] = []
    trouble: str | None = None


async def notify_about_queue(
    queue: Queue,
    name: str,
    *,
    dead_letters: int | None = None,
    oldest_ready_s: float | None = None,
    interrupted: int | None = None,
    missing_s: float,
    checked: bool = True,
) -> NotifyResult:
    """Check the queue and its lanes, and report what has begun to be wrong or is well again.

    Args:
        queue: An open queue.
        name: Name of its Task Queue block.
        dead_letters: Limit on dead letters; `None` for the setting's.
        oldest_ready_s: Limit on the time a task may be ready, in seconds; `None` for the setting's.
        interrupted: Limit on unfinished tasks that were interrupted more than twice; `None` for the
            setting's.
        missing_s: Limit on the time without a lane that claims while dispatch is scheduled, in seconds.
        checked: Report that the queue was checked, so that silence can be noticed.
    """
    settings = load_settings()
    now = await queue.reader.now()
    lanes = sum(lane.claiming for lane in await queue.reader.lanes())
    found = [
        await checks.dead_letters(
            queue, settings.alert_dead_letters if dead_letters is None else dead_letters
        ),
        await checks.oldest_ready(queue, oldest_ready_s or settings.alert_oldest_ready),
        await checks.interrupted(queue, settings.alert_interrupted if interrupted is None else interrupted),
    ]

    async def send(client: PrefectClient) -> list[str]:
        due = await checks.dispatch_is_due(client, name)
        findings = [*found, checks.dispatch(lanes, due, missing_s)]
        reported = await report(client, name, findings, now, await changed_at(client))
        if checked:
            report_checked(name)
        return reported

    return await _sent(send)


async def notify_about_verification(found: Verification, name: str) -> NotifyResult:
    """Report that a check has begun to fail, or that none fails any more.

    Args:
        found: Findings of verify.
        name: Name of the Task Queue block that was verified.
    """

    async def send(client: PrefectClient) -> list[str]:
        return await report(client, name, [checks.verification(found)], changed=await changed_at(client))

    return await _sent(send)


async def _sent(send: Callable[[PrefectClient], Awaitable[list[str]]]) -> NotifyResult:
    try:
        async with prefect_client(NOTIFY_TIMEOUT_S) as client:
            return NotifyResult(reported=await send(client))
    except PrefectUnavailable as error:
        return NotifyResult(trouble=f"no alerts: {error.what}")
