"""Settings of connections to the gateway, and limits of waiting, for both kinds of client."""

from __future__ import annotations

import time
from typing import Any

from organism_flows.blocks.local_stack.access_token import bearer, gateway_address
from organism_flows.blocks.settings import load_settings

OUTAGE_PAUSE_S = 1.0


def connection(url: str | None, token: str | None, timeout: float) -> dict[str, Any]:
    """Return the arguments of an httpx client for the gateway.

    Args:
        url: URL of the gateway. `None` means that of the environment, or of the stack in the home.
        token: Token for the gateway. `None` means that of the environment, if the URL is the environment's
            too.
        timeout: Seconds for a request.

    Raises:
        ConfigurationError: No gateway is known.
    """
    if url is None:
        url, known = gateway_address(load_settings())
        token = token or known
    return {"base_url": url, "headers": bearer(token), "timeout": timeout}


class WaitBudget:
    """The time that a wait may still take.

    Args:
        timeout: Seconds. `None` means no limit.
    """

    def __init__(self, timeout: float | None) -> None:
        self._deadline = float("inf") if timeout is None else time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(self._deadline - time.monotonic(), 0.0)

    def outage_pause(self) -> float:
        """Return how long to wait until an outage may be over, in seconds. Call it in an ``except`` block.

        If there is no time left for that, it raises the exception that is being handled.
        """
        if self.left < OUTAGE_PAUSE_S:
            raise  # noqa: PLE0704 - the exception of the caller
        return OUTAGE_PAUSE_S
