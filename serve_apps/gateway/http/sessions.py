"""Sessions of browsers: a cookie in place of a bearer token.

The cookie holds a random id and not the token: browsers send a cookie to every port of a host name, so other
servers of this machine may see it. A session ends with its token, with the gateway, or after `SESSION_S`.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.types import Scope

from organism_flows.serve_apps.gateway.http.tokens import Holder, Tokens

SESSION_S = 12 * 3600.0
CODE_S = 60.0
"""Time within which a code for signing in can be used, once, in seconds."""
SESSIONS_LIMIT = 10_000
"""Most sessions, and most codes. The oldest ends when there are more."""
COOKIE = "organism-session"
OWN_SITES = ("same-origin", "none")


@dataclass(frozen=True)
class _Kept:
    token: bytes
    """Digest of the token that was signed in with."""
    until: float


class Sessions:
    """The sessions and the unused codes of one gateway, by the digest of their secret."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, _Kept] = {}
        self._codes: dict[bytes, _Kept] = {}

    def open(self, token: bytes) -> str:
        """Return the secret of a new session for the holder of a token.

        Args:
            token: SHA-256 digest of the token.
        """
        return _keep(self._sessions, token, SESSION_S)

    def make_code(self, token: bytes) -> str:
        """Return a code that opens one session for the holder of a token, within `CODE_S`."""
        return _keep(self._codes, token, CODE_S)

    def use_code(self, code: str) -> bytes | None:
        """Return the digest of the token that a code was made for; `None` means the code is not valid."""
        kept = self._codes.pop(_digest(code), None)
        return kept.token if kept is not None and time.monotonic() < kept.until else None

    def close(self, secret: str | None) -> bool:
        """End a session, and return True if there was one."""
        return secret is not None and self._sessions.pop(_digest(secret), None) is not None

    def holder_of(self, secret: str, tokens: Tokens) -> Holder | None:
        """Return the holder that a session belongs to.

        Returns:
            `None` means that there is no such session, or that its token is not accepted any more.
        """
        kept = self._sessions.get(_digest(secret))
        if kept is None or time.monotonic() >= kept.until:
            return None
        return tokens.holders.get(kept.token)


def cookie_name(scope: Scope) -> str:
    """Return the name of the cookie. It has the port: a browser has one set of cookies for all ports."""
    _, _, port = Headers(scope=scope).get("host", "").rpartition(":")
    return f"{COOKIE}-{port}" if port.isdecimal() and len(port) <= 5 else COOKIE


def session_secret(scope: Scope) -> str | None:
    """Return the session secret that a browser sent; `None` means it sent none that counts.

    It does not count in a request that a page of another site, or of another port, has made.
    """
    headers = Headers(scope=scope)
    text = headers.get("cookie")
    if text is None or headers.get("sec-fetch-site", "none") not in OWN_SITES:
        return None
    if scope["method"] not in ("GET", "HEAD") and "origin" not in headers:
        # Browsers name the page's site in each such request. `why_foreign` has compared it with ours.
        return None
    try:
        found = SimpleCookie(text).get(cookie_name(scope))
    except CookieError:
        return None
    return found.value if found is not None else None


def set_cookie(scope: Scope, secret: str | None) -> str:
    """Return the header that gives a browser its session secret, or takes it away."""
    parts = [
        f"{cookie_name(scope)}={secret or ''}",
        f"Path={scope.get('root_path', '') or '/'}",
        f"Max-Age={int(SESSION_S) if secret else 0}",
        "HttpOnly",
        "SameSite=Strict",
    ]
    if scope.get("scheme") == "https":
        parts.append("Secure")
    return "; ".join(parts)


def _keep(kept: dict[bytes, _Kept], token: bytes, seconds: float) -> str:
    now = time.monotonic()
    for digest in [digest for digest, one in kept.items() if one.until <= now]:
        del kept[digest]
    while len(kept) >= SESSIONS_LIMIT:
        del kept[next(iter(kept))]
    secret = secrets.token_urlsafe(32)
    kept[_digest(secret)] = _Kept(token, now + seconds)
    return secret


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
