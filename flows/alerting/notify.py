"""Reports alerts for the flows: the watchdog's about the queue, and verify's about its findings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from httpx import HTTPError
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import PrefectException
from pydantic import BaseModel

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.settings import load_settings
from organism_flows.flows.alerting import checks
from organism_flows.flows.alerting.automations import changed_at
from organism_flows.flows.alerting.transitions import say_looked, tell
from organism_flows.flows.verification.finding import Verification

TELL_TIMEOUT_S = 30.0


class NotifyResult(BaseModel):
    """Lines that were reported, or why nothing could be."""

    said: list[str] = []
    trouble: str | None = None


async def tell_of_queue(
    queue: Queue,
    name: str,
    *,
    dead_letters: int | None = None,
    oldest_ready_s: float | None = None,
    interrupted: int | None = None,
    missing_s: float,
    looked: bool = True,
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
        looked: Report that the queue was checked, so that silence can be noticed.
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

    async def say(client: PrefectClient) -> list[str]:
        due = await checks.dispatch_is_due(client, name)
        all_of_it = [*found, checks.dispatch(lanes, due, missing_s)]
        said = await tell(client, name, all_of_it, now, await changed_at(client))
        if looked:
            say_looked(name)
        return said

    return await _told(say)


async def tell_of_verification(found: Verification, name: str) -> NotifyResult:
    """Report that a check has begun to fail, or that none fails any more.

    Args:
        found: Findings of verify.
        name: Name of the Task Queue block that was verified.
    """

    async def say(client: PrefectClient) -> list[str]:
        return await tell(client, name, [checks.verification(found)], changed=await changed_at(client))

    return await _told(say)


async def _told(say: Callable[[PrefectClient], Awaitable[list[str]]]) -> NotifyResult:
    try:
        async with asyncio.timeout(TELL_TIMEOUT_S), get_client() as client:
            return NotifyResult(said=await say(client))
    except TimeoutError:
        return NotifyResult(trouble=f"no alerts: Prefect's server did not answer within {TELL_TIMEOUT_S:g} s")
    except (HTTPError, PrefectException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        return NotifyResult(trouble=f"no alerts: Prefect's server: {type(error).__name__}: {reason}")
