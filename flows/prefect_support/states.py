"""How flows end, and what they show of themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any

from httpx import HTTPError
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.states import Failed

from organism_flows.blocks.errors import OrganismError, QueueUnavailable
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS

ORGANISM_TAG = "organism"
"""Tag of every run of our deployments, and version of every run of our flows that is started otherwise: by it
they are told from flows of the same name on a server that is shared."""
PAGE_TIMEOUT_S = 10.0
SERVER_POLL_S = 1.0
EXPECTED_ERRORS: tuple[type[BaseException], ...] = (OrganismError, *TRANSIENT_ERRORS)
"""What a flow ends with in good order, in a line and without a traceback."""

BEGUN: ContextVar[asyncio.Event | None] = ContextVar("begun", default=None)
"""Set when a flow that is called in this process begins, for whoever waits for it with a deadline."""


def note_begun() -> None:
    """Say that the flow has begun.

    A function, because a lane's task carries its flow, and what the flow's own module holds, to Ray: a
    `ContextVar` cannot be pickled.
    """
    if begun := BEGUN.get():
        begun.set()


def failed(error: BaseException) -> State[Any]:
    """The final state of a flow that met ``error``, one of ``EXPECTED_ERRORS``; its caller sees it raised."""
    if not isinstance(error, OrganismError):
        error = QueueUnavailable(
            f"lost Postgres: {type(error).__name__}{f': {error}' if str(error) else ''}",
            "run it again; what it has done stays done",
        )
    # Returned, and raised by Prefect where the flow was called: raised in the flow, it would be logged with a
    # traceback, and what it says is one line.
    return Failed(message=str(error), data=error)


async def show_page(text: str, *, key: str) -> None:
    """Make ``text`` the markdown page of this run; without one, what it did is done all the same."""
    await show(acreate_markdown_artifact(text, key=key))


async def show(page: Awaitable[object]) -> None:
    """Await what only shows something on a run's page; a server that does not answer stops nothing."""
    try:
        async with asyncio.timeout(PAGE_TIMEOUT_S):
            await page
    except (HTTPError, PrefectException, OSError) as error:
        get_run_logger().warning("this run's page lacks something: %s: %s", type(error).__name__, error)


async def wait_for_prefect(within_s: float) -> None:
    """Return when Prefect's server answers, or after so many seconds.

    A run that ends while it is away could not say how: Prefect's client tries for about a minute.
    """
    logger = get_run_logger()
    deadline = time.monotonic() + within_s
    waiting = False
    while not await _answers() and time.monotonic() < deadline:
        if not waiting:
            logger.warning(
                "Prefect's server is away; waiting up to %g s to tell it how this run ended", within_s
            )
        waiting = True
        await asyncio.sleep(SERVER_POLL_S)


async def _answers() -> bool:
    try:
        async with asyncio.timeout(PAGE_TIMEOUT_S), get_client() as client:
            return await client.api_healthcheck() is None
    except (HTTPError, PrefectException, OSError):
        return False


def cell(text: str | None, length: int = 200) -> str:
    """``text`` as it may stand in a cell of a markdown table."""
    line = " ".join((text or "").split()).replace("|", "\\|").replace("`", "'")
    return line if len(line) <= length else line[: length - 1] + "…"
