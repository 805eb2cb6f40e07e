"""Runs of flows: the current one, final states, their pages, and waiting for Prefect's server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any

from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Failed

from organism_flows.blocks.errors import OrganismError, PrefectUnavailable, QueueUnavailable
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from organism_flows.flows.prefect_support.server import answered_within, prefect_client

ORGANISM_TAG = "organism"
"""Tag of every run of our deployments, and flow version of every other run of our flows.

It distinguishes them from flows of the same name on a shared server.
"""
PAGE_TIMEOUT_S = 10.0
SERVER_POLL_S = 1.0
EXPECTED_ERRORS: tuple[type[BaseException], ...] = (OrganismError, *TRANSIENT_ERRORS)
"""Errors that end a flow in good order: with one line and without a traceback."""

BEGUN: ContextVar[asyncio.Event | None] = ContextVar("begun", default=None)
"""Event to set when a flow that is called in this process begins. The caller waits for it with a deadline."""


def note_begun() -> None:
    """Set the event in ``BEGUN``, if there is one.

    This is a function because a `ContextVar` cannot be pickled: the task of a lane carries its flow to Ray,
    and with it everything that the flow's module holds.
    """
    if begun := BEGUN.get():
        begun.set()


def current_run() -> FlowRun | None:
    """Return the flow run that this is called in, as it was when it began; `None` outside of one."""
    context = FlowRunContext.get()
    return context.flow_run if context else None


def failed(error: BaseException) -> State[Any]:
    """Return the final state of a flow for ``error``, one of ``EXPECTED_ERRORS``. Prefect raises it."""
    if not isinstance(error, OrganismError):
        error = QueueUnavailable(
            f"lost Postgres: {type(error).__name__}{f': {error}' if str(error) else ''}",
            "run it again; what it has done stays done",
        )
    # Return it: Prefect raises it where the flow was called. Raised in the flow, it would be logged with a
    # traceback, and its message is one line.
    return Failed(message=str(error), data=error)


async def show_page(text: str, *, key: str) -> None:
    """Make ``text`` the markdown page of this run. An error is logged and does not fail the run."""
    await show(acreate_markdown_artifact(text, key=key))


async def show(page: Awaitable[object]) -> None:
    """Await a call that shows something on a run's page. An error is logged and does not fail the run."""
    try:
        async with answered_within(PAGE_TIMEOUT_S):
            await page
    except PrefectUnavailable as error:
        get_run_logger().warning("this run's page lacks something: %s", error)


async def wait_for_prefect(within_s: float) -> None:
    """Return when Prefect's server answers, or after ``within_s`` seconds.

    A run that ends while the server is away cannot report how: Prefect's client tries for about a minute.
    """
    logger = get_run_logger()
    deadline = time.monotonic() + within_s
    waiting = False
    while not await _answers() and time.monotonic() < deadline:
        if not waiting:
            logger.warning(
                "Prefect's server is away; waiting up to %g s to report how this run ended", within_s
            )
        waiting = True
        await asyncio.sleep(SERVER_POLL_S)


async def _answers() -> bool:
    try:
        async with prefect_client(PAGE_TIMEOUT_S) as client:
            return await client.api_healthcheck() is None
    except PrefectUnavailable:
        return False
