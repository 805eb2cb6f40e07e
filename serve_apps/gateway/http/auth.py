"""Middleware that admits or refuses requests, limits their bodies, and adds headers to every answer.

It runs before everything else, so that no body is read of a request that is not allowed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from organism_flows.serve_apps.gateway.board.files import BOARD_HEADERS
from organism_flows.serve_apps.gateway.http.answer_links import HEADERS as ANSWER_HEADERS
from organism_flows.serve_apps.gateway.http.answer_links import PATH as ANSWERS
from organism_flows.serve_apps.gateway.http.problems import RequestRefused, refusal
from organism_flows.serve_apps.gateway.http.rate_limit import RateLimit
from organism_flows.serve_apps.gateway.http.sessions import Sessions, session_secret
from organism_flows.serve_apps.gateway.http.tokens import Holder, OwnToken, TokenFile, Tokens, covers
from organism_flows.serve_apps.gateway.http.tokens import Scope as TokenScope
from organism_flows.serve_apps.gateway.metrics.metrics import Requests
from organism_flows.serve_apps.http_access import (
    bearer_token,
    is_loopback,
    route_path,
    why_foreign,
    why_not_json,
)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"})
"""Paths of the API that may be read without a token."""
SIGN_IN = "/api/session"
LONG_POLL_PATHS = (
    "/wait",
    "/events",
    "/stream",
    "/export",
    "/api/tasks/cancel",
    "/api/tasks/redrive",
    "/coordinator/submit",
)
"""Ends of the paths of requests that may take longer than `REQUEST_TIMEOUT_S`."""
SUBMITTING = frozenset({("POST", "/api/tasks"), ("POST", "/coordinator/submit")})
EVENT_PATH = re.compile(r"/api/tasks/[^/]+/(events|links)/[^/]+")
"""Paths of the events of tasks: whoever may add tasks may send them some."""
READING = frozenset(
    {("POST", "/api/tasks/wait"), ("POST", f"{SIGN_IN}/sign-out"), ("POST", f"{SIGN_IN}/codes")}
)
QUERY_LIMIT = 100
"""Most parameters of a query: each wrong one makes an error."""
REQUEST_TIMEOUT_S = 20.0
"""Longest time for any other request, in seconds. It ends requests that wait for a connection to Postgres,
or for a Postgres that no longer answers."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# In the form that ASGI has, because setting them one by one takes as long as reading the request.
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
_BOARD_HEADERS = [
    (name.lower().encode(), value.encode()) for name, value in (SECURITY_HEADERS | BOARD_HEADERS).items()
]
_ANSWER_HEADERS = [
    (name.lower().encode(), value.encode()) for name, value in (SECURITY_HEADERS | ANSWER_HEADERS).items()
]
_NAMES = frozenset(name for name, _ in _HEADERS)

logger = logging.getLogger("organism.gateway")


class AuthMiddleware:
    """ASGI middleware around the whole gateway.

    Args:
        app: The app behind it.
        tokens: The tokens that are accepted. `None` means that no token is needed, and that only this machine
            is answered.
        hosts: Host names of this gateway, in addition to those of loopback.
        rate: Limit of the requests of one client. `None` means no limit.
        body_limit: Longest body, in bytes.
        requests: Counter of the requests.
        sessions: Sessions of browsers.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: TokenFile | OwnToken | None,
        sessions: Sessions,
        hosts: Collection[str],
        rate: RateLimit | None,
        body_limit: int,
        requests: Requests,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._sessions = sessions
        self._hosts = hosts
        self._rate = rate
        self._body_limit = body_limit
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                kept = [h for h in message["headers"] if h[0] not in _NAMES]
                message["headers"] = kept + _headers_of(route_path(scope))
            await send(message)

        try:
            holder = self._admit(scope)
            who = holder.name if holder is not None else None
            scope.setdefault("state", {}).update(who=who, holder=holder)
            if self._rate is not None and who is not None and not _is_open(scope):
                await self._rate.admit(who)
            patience = None if scope["path"].endswith(LONG_POLL_PATHS) else REQUEST_TIMEOUT_S
            async with asyncio.timeout(patience):
                await self._app(scope, self._limited(scope, receive), answer)
        except Exception as error:
            # If the answer had begun, Starlette's error says only that. The original error is its cause.
            if status and isinstance(error.__cause__, Exception):
                error = error.__cause__
            refused = refusal(error)
            if refused is None:
                logger.exception("a request failed: %s %s", scope["method"], scope["path"])
                refused = RequestRefused("defect", "it is in the gateway's log")
            if status:
                # An answer that has begun can only be cut off: uvicorn closes the connection.
                logger.warning("an answer was broken off: %s %s: %s", scope["method"], scope["path"], error)
                return
            await refused.response()(scope, receive, answer)
        finally:
            self._requests.count(scope, status)

    def _admit(self, scope: Scope) -> Holder | None:
        """Return the client that sent a request, or refuse the request.

        Returns:
            `None` means that no known token came with it and that its path needs none.
        """
        if reason := why_foreign(scope, self._hosts, loopback_only=self._tokens is None):
            raise RequestRefused("forbidden", reason)
        if self._tokens is None:
            who: Holder | None = self._admit_locally(scope)
        else:
            who = self._admit_by_token(scope, self._tokens.tokens)
        if not is_answer(route_path(scope)) and (reason := why_not_json(scope)):
            raise RequestRefused("not-json", reason)
        if scope["query_string"].count(b"&") >= QUERY_LIMIT:
            raise RequestRefused("invalid", f"the query has more than {QUERY_LIMIT} parameters")
        return who

    def _admit_locally(self, scope: Scope) -> Holder:
        client = scope.get("client")
        if client is not None and not is_loopback(client[0]):
            raise RequestRefused("forbidden", "without tokens the gateway answers this machine only")
        return Holder("operate", client[0] if client is not None else "localhost")

    def _admit_by_token(self, scope: Scope, tokens: Tokens) -> Holder | None:
        held = None
        if (token := bearer_token(scope)) is not None:
            held = tokens.holder_of(token)
        elif (secret := session_secret(scope)) is not None:
            held = self._sessions.holder_of(secret, tokens)
        if _is_open(scope):
            return held
        if held is None:
            raise RequestRefused(
                "unauthenticated",
                "no token that is known came with the request",
                next_step="send Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )
        needed = scope_needed(scope["method"], route_path(scope))
        if not covers(held.scope, needed):
            raise RequestRefused(
                "forbidden", f"this needs a token of scope {needed}; this one has {held.scope}"
            )
        return held

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        too_large = HTTPException(413, f"the body is longer than {self._body_limit:,} bytes")
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._body_limit:
            raise too_large
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._body_limit:
                raise too_large
            return message

        return limited


def is_board(path: str) -> bool:
    """Return True if ``path`` is that of a file of the board."""
    return path == "/" or path.startswith("/board/")


def is_answer(path: str) -> bool:
    """Return True if ``path`` is that of a signed link. The link is all that a person needs."""
    return path.startswith(f"{ANSWERS}/")


def _headers_of(path: str) -> list[tuple[bytes, bytes]]:
    if is_board(path):
        return _BOARD_HEADERS
    return _ANSWER_HEADERS if is_answer(path) else _HEADERS


def _is_open(scope: Scope) -> bool:
    """Return True if a request needs no token: it reads what is public, signs in, or has a link."""
    path = route_path(scope)
    if (scope["method"], path) == ("POST", SIGN_IN) or is_answer(path):
        return True
    return path in OPEN_PATHS or (scope["method"] in ("GET", "HEAD") and is_board(path))


def scope_needed(method: str, path: str) -> TokenScope:
    """Return the scope that a request needs its token to have."""
    if method in ("GET", "HEAD") or (method, path) in READING:
        return "read"
    submits = (method, path) in SUBMITTING or EVENT_PATH.fullmatch(path)
    return "submit" if submits else "operate"
