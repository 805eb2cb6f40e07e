"""How bodies are read: by orjson, in a fifth of the time, wherever it says what the standard library does."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

_LONG_NUMBER = re.compile(rb"[0-9]{19}")
"""May be an integer beyond 64 bits, which orjson would round."""


class JsonRequest(Request):
    """A request whose JSON is read quickly."""

    async def json(self) -> Any:
        """The body; what orjson refuses, such as NaN, is the standard library's to read or to refuse."""
        body = await self.body()
        if _LONG_NUMBER.search(body) is None:
            with suppress(orjson.JSONDecodeError):
                return orjson.loads(body)
        return await super().json()


class Route(APIRoute):
    """A route that gets such requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handler
