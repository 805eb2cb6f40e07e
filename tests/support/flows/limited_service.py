"""A service with limits by key: it counts what is beyond them, and answers 429 to it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

import uvicorn
from fastapi import FastAPI, Request, Response

TURNS = 20
"""Turns of the event loop after which a connection that was closed before has been noticed."""


class LimitedService:
    """Takes some calls of each key at once, and ``in_period`` calls of all keys within ``period_s``.

    A call whose caller has gone ends at once.

    Args:
        at_once: Most calls at once, by key; the empty key is of all others.
        in_period: Most calls of all keys within ``period_s``.
        period_s: Length of the period, in seconds.
        call_s: What a call takes, in seconds.
    """

    def __init__(self, *, at_once: dict[str, int], in_period: int, period_s: float, call_s: float) -> None:
        self.calls = 0
        self.beyond_at_once = 0
        self.beyond_rate = 0
        self.most_at_once = 0
        self.answered: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self._arrived: deque[float] = deque()
        self._at_once, self._in_period = at_once, in_period
        self._period_s, self._call_s = period_s, call_s

    async def __aenter__(self) -> str:
        """Serve, and return the URL."""
        app = FastAPI()
        app.add_api_route("/call/{key}/{task}", self.call, methods=["POST"], response_model=None)
        config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._serving

    async def call(self, key: str, task: str, request: Request) -> Response:
        """Answer one call."""
        await request.body()
        now = asyncio.get_running_loop().time()
        self.calls += 1
        self._arrived.append(now)
        while self._arrived[0] <= now - self._period_s:
            self._arrived.popleft()
        self._running[key] += 1
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.most_at_once = max(self.most_at_once, self._running.total())
        too_many = self._running[key] > self._at_once.get(key, self._at_once[""])
        too_soon = len(self._arrived) > self._in_period
        self.beyond_at_once += too_many
        self.beyond_rate += too_soon
        try:
            await asyncio.wait_for(request.receive(), self._call_s)  # the next message is its end
        except TimeoutError:
            pass
        finally:
            self._running[key] -= 1
        if too_many or too_soon:
            return Response(status_code=429, headers={"Retry-After": "1"})
        self.answered[task] += 1
        return Response("{}", media_type="application/json")
