"""Checks of HTTP requests that the gateway and the organism share: origin, host name, body type, token."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from organism_flows.blocks.settings import Settings


def route_path(scope: Scope) -> str:
    """Return the path of a request below the prefix that the app is mounted at."""
    path: str = scope["path"]
    # An app of Serve is mounted below a prefix. ASGI puts the prefix in both `path` and `root_path`.
    return path.removeprefix(scope.get("root_path", ""))


def host_names(settings: Settings) -> frozenset[str]:
    """Return the host names in ORGANISM_HOSTS, in lower case."""
    return frozenset(name.strip().lower() for name in settings.hosts.split(",") if name.strip())


def why_foreign(scope: Scope, hosts: Collection[str], *, loopback_only: bool = False) -> str | None:
    """Return why a request is refused for its `Origin` or its `Host`; `None` means it is not refused.

    Any web page can make a browser on this machine send requests here. Its `Origin` shows that. If the page
    points its own host name at this machine, its `Host` shows it.

    Args:
        scope: ASGI scope of the request.
        hosts: Host names that are allowed in addition to those of loopback. Without any, a request that
            arrives at another address than loopback may use any name.
        loopback_only: Refuse all other names, at whatever address the request arrives.
    """
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is not None and _netloc(origin) != headers.get("host"):
        return "this is not for pages of other sites"
    host = _hostname(headers.get("host", ""))
    if host in hosts or is_loopback(host):
        return None
    server = scope.get("server")
    if hosts or loopback_only or server is None or is_loopback(server[0]):
        return f"no name of ours is {host[:100]!r}; ORGANISM_HOSTS adds names"
    return None


def why_not_json(scope: Scope) -> str | None:
    """Return why the body of a request that changes something is refused unread; `None` means it is not.

    A browser lets a page of another site send forms and plain text to any server. It sends JSON only to
    servers that allow it.
    """
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return None
    headers = Headers(scope=scope)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json and (kind or has_body):
        return f"the body is {kind[:100] or 'of no type'}, not application/json"
    if headers.get("content-encoding", "identity").lower() != "identity":
        return "compressed bodies are not read"
    return None


def bearer_token(scope: Scope) -> str | None:
    """Return the bearer token of a request; `None` means it has none."""
    kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def is_token(given: str | None, known: str) -> bool:
    """Return True if ``given`` is the token ``known``, compared in constant time."""
    return given is not None and hmac.compare_digest(given.encode("utf-8", "replace"), known.encode())


@lru_cache(maxsize=1000)
def is_loopback(host: str) -> bool:
    """Return True if ``host`` is a name or an address of loopback."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    return address.is_loopback or bool(
        (mapped := getattr(address, "ipv4_mapped", None)) and mapped.is_loopback
    )


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""
