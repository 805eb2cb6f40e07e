"""Authorization of the organism's HTTP routes: they need its token. Without one, only `/health` answers."""

from __future__ import annotations

import json
import logging

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.local_stack.access_token import NEXT_STEP, own_token
from organism_flows.blocks.settings import Settings, load_settings
from organism_flows.serve_apps.http_access import (
    bearer_token,
    host_names,
    is_token,
    route_path,
    why_foreign,
    why_not_json,
)

HEALTH = "/health"
BODY_LIMIT = 16_000_000
"""Longest body, in bytes; the gateway's default."""
PROVEN = "organism_token_proven"
"""Key in the state of a request: whether the request came with the token."""

logger = logging.getLogger("organism.http")


class HttpAuth:
    """ASGI middleware around the organism's routes. The token is that of the replica's environment."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._settings: Settings | None = None
        self._token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, reason = self._refusal(scope)
        if reason:
            await _answer(status, reason)(scope, receive, send)
            return
        await self._app(scope, _limited(scope, receive), send)

    def _refusal(self, scope: Scope) -> tuple[int, str]:
        settings = self._settings or self._load()
        if reason := why_foreign(scope, host_names(settings)):
            return 403, reason
        proven = self._token is not None and is_token(bearer_token(scope), self._token)
        scope.setdefault("state", {})[PROVEN] = proven
        if not proven and not (scope["method"] == "GET" and route_path(scope) == HEALTH):
            if self._token is None:
                return 403, "the replica has no token, so these routes are closed: set ORGANISM_TOKEN for it"
            return 401, f"no token of this organism came with the request: {NEXT_STEP}"
        if reason := why_not_json(scope):
            return 415, reason
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > BODY_LIMIT:
            return 413, f"the body is longer than {BODY_LIMIT:,} bytes"
        return 0, ""

    def _load(self) -> Settings:
        try:
            settings = load_settings()
        except ConfigurationError:
            # The organism works without them; only these routes stay closed.
            logger.exception("the settings of the replica are not acceptable")
            settings = Settings.model_construct()
        token = own_token(settings)
        self._token = token.get_secret_value() if token else None
        self._settings = settings
        return settings


def _limited(scope: Scope, receive: Receive) -> Receive:
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        # A body without a length is cut off here. Then it is not JSON, and the route refuses it.
        return {**message, "body": b"", "more_body": False} if read > BODY_LIMIT else message

    return limited


def _answer(status: int, reason: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return Response(
        json.dumps({"error": reason}), status_code=status, headers=headers, media_type="application/json"
    )
