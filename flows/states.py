"""How flows end that talk to Postgres and to no lane."""

from __future__ import annotations

import asyncio
from typing import Any

from httpx import HTTPError
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.states import Failed

from blocks.errors import OrganismError, QueueUnavailable
from blocks.queue.connection import TRANSIENT_ERRORS

OURS = "organism"
"""Tag of every run of our deployments, and version of every run of our flows that is started otherwise: by it
they are told from flows of the same name on a server that is shared."""
PAGE_TIMEOUT_S = 10.0
EXPECTED: tuple[type[BaseException], ...] = (OrganismError, *TRANSIENT_ERRORS)
"""What a flow ends with in good order, in a line and without a traceback."""


def failed(error: BaseException) -> State[Any]:
    """The final state of a flow that met ``error``, one of ``EXPECTED``; its caller sees it raised."""
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
    try:
        async with asyncio.timeout(PAGE_TIMEOUT_S):
            await acreate_markdown_artifact(text, key=key)
    except (HTTPError, PrefectException, OSError) as error:
        get_run_logger().warning("no page of this run: %s: %s", type(error).__name__, error)


def cell(text: str | None, length: int = 200) -> str:
    """``text`` as it may stand in a cell of a markdown table."""
    line = " ".join((text or "").split()).replace("|", "\\|").replace("`", "'")
    return line if len(line) <= length else line[: length - 1] + "…"
