"""What the flows call to have alerts said: the watchdog about the queue, verify about what it found."""

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
    """What was said, or why nothing could be."""

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
    """Look at the queue and its lanes, and say what has begun to be wrong or is well again.

    Args:
        name: Of the Task Queue block.
        dead_letters: More are too many; None: the setting's.
        oldest_ready_s: A task that is ready for longer is too old; None: the setting's.
        interrupted: More unfinished tasks interrupted more than twice are too many; None: the setting's.
        missing_s: So long no lane may claim, while dispatch is scheduled.
        looked: Say that the queue was looked at, so that its absence can be told.
    """
    settings = load_settings()
    now = await queue.now()
    lanes = sum(lane.claiming for lane in await queue.lanes())
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
    """Say that a check has begun to fail, or that none fails any more.

    Args:
        name: Of the Task Queue block that was verified.
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
