"""Rate limit of the requests of one client."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from organism_flows.serve_apps.gateway.http.problems import RequestRefused


class RateLimit:
    """Counter of each client's requests in the last second.

    Args:
        requests: Most requests of one client in a second.
    """

    def __init__(self, requests: int) -> None:
        self._item = RateLimitItemPerSecond(requests)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def admit(self, client: str) -> None:
        """Count a request of ``client``.

        Raises:
            RequestRefused: The client has reached the limit.
        """
        if await self._limiter.hit(self._item, client):
            return
        window = await self._limiter.get_window_stats(self._item, client)
        wait_s = max(1, math.ceil(window.reset_time - time.time()))
        raise RequestRefused(
            "too-many",
            f"more than {self._item.amount} requests in a second",
            next_step="send fewer, or many tasks in one request",
            headers={"Retry-After": str(wait_s)},
        )
