"""How clients of the gateway reach it, and how long they wait: what both kinds have in common."""

from __future__ import annotations

import time
from typing import Any

from organism_flows.blocks.access_token import bearer, gateway_address
from organism_flows.blocks.settings import load_settings

OUTAGE_PAUSE_S = 1.0


def connection(url: str | None, token: str | None, timeout: float) -> dict[str, Any]:
    """Return the arguments of an httpx client for the gateway.

    Args:
        url: Where it is. `None`: as the environment says, or the stack in the home.
        token: What it asks for. `None`: that of the environment, if it is the environment's gateway.

    Raises:
        ConfigurationError: No gateway is known.
    """
    if url is None:
        url, known = gateway_address(load_settings())
        token = token or known
    return {"base_url": url, "headers": bearer(token), "timeout": timeout}


class WaitBudget:
    """How long is still to be waited.

    Args:
        timeout: Seconds; `None` is without end.
    """

    def __init__(self, timeout: float | None) -> None:
        self._deadline = float("inf") if timeout is None else time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds, at least 0."""
        return max(self._deadline - time.monotonic(), 0.0)

    def outage_pause(self) -> float:
        """Return how long to wait until an outage may be over. Call it in an ``except`` block.

        Raises the error that is being handled if there is no time for that.
        """
        if self.left < OUTAGE_PAUSE_S:
            raise  # noqa: PLE0704 - the caller's
        return OUTAGE_PAUSE_S
