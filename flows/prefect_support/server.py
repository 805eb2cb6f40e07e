"""The Prefect server that this process uses, and failures to reach it as one line.

It imports Prefect when it is used: commands that end without a server do not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import httpx

from organism_flows.blocks.errors import ConfigurationError, PrefectUnavailable

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient


def prefect_api() -> str:
    """Return the URL of the Prefect server that this process uses.

    Raises:
        ConfigurationError: No Prefect server is configured.
    """
    from prefect.settings import PREFECT_API_URL

    api: str | None = PREFECT_API_URL.value()
    if not api:
        raise ConfigurationError(
            "no Prefect server is configured: PREFECT_API_URL is not set", "run `organism up`, or set it"
        )
    return api


@contextmanager
def reaching_prefect() -> Iterator[str]:
    """Turn a failure to reach the Prefect server within the block into an error on one line.

    Yields:
        The URL of the server.

    Raises:
        ConfigurationError: No server is configured.
        PrefectUnavailable: The server does not answer, or refuses.
    """
    api = prefect_api()
    with _failures_on_one_line():
        yield api


@asynccontextmanager
async def prefect_client(within_s: float) -> AsyncIterator[PrefectClient]:
    """Open a client of the Prefect server, for a block that must not hang or fail because of the server.

    Args:
        within_s: Longest time for the whole block, in seconds.

    Yields:
        The client.

    Raises:
        PrefectUnavailable: The server does not answer, not in time, or refuses.
    """
    from prefect.client.orchestration import get_client

    async with answered_within(within_s), get_client() as client:
        yield client


@asynccontextmanager
async def answered_within(within_s: float) -> AsyncIterator[None]:
    """Raise `PrefectUnavailable` if the block takes longer, or fails because of the Prefect server.

    Args:
        within_s: Longest time for the block, in seconds.
    """
    late = asyncio.timeout(within_s)
    try:
        with _failures_on_one_line():
            async with late:
                yield
    except PrefectUnavailable:
        if late.expired():
            raise unavailable(TimeoutError(f"not within {within_s:g} s")) from None
        raise


@contextmanager
def _failures_on_one_line() -> Iterator[None]:
    from prefect.exceptions import PrefectException

    try:
        yield
    except (OSError, httpx.HTTPError, PrefectException) as error:  # TimeoutError is an OSError
        raise unavailable(error) from None


def unavailable(error: Exception) -> PrefectUnavailable:
    """Return the error for ``error``, which a call of the Prefect server has raised."""
    from prefect.settings import PREFECT_API_URL

    api = PREFECT_API_URL.value()
    server = f"the Prefect server at {api}" if api else "the Prefect server of this process"
    if isinstance(error, httpx.HTTPStatusError):
        return PrefectUnavailable(
            f"{server} refuses: {error.response.status_code} {error.response.text[:200]}",
            "see that it is Prefect 3.8 or later",
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return PrefectUnavailable(f"{server} does not answer: {reason[:200]}", "start or reach it")
