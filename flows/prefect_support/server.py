"""The Prefect server that this process uses, and failures to reach it as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from organism_flows.blocks.errors import ConfigurationError, OrganismError


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
        OrganismError: The server cannot be reached, or refuses.
    """
    api = prefect_api()
    try:
        yield api
    except httpx.HTTPStatusError as error:
        raise OrganismError(
            f"the Prefect server at {api} refuses: {error.response.status_code} {error.response.text[:200]}",
            "see that it is Prefect 3.8 or later",
        ) from None
    except (OSError, httpx.HTTPError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OrganismError(
            f"the Prefect server at {api} does not answer: {reason[:200]}", "start or reach it"
        ) from None
