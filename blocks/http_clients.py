"""HTTP clients for the parts of the system: the organism, Serve, the gateway, Prefect's server."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

    import httpx


def own_client(*, timeout: float, trust_env: bool = False, **options: Any) -> httpx.AsyncClient:
    """Return an HTTP client.

    Args:
        timeout: Longest time of each step of a request, in seconds.
        trust_env: Use the proxies and certificates of the environment. A proxy cannot reach the loopback of
            this machine.
        **options: Further options of `httpx.AsyncClient`.
    """
    import httpx

    verify = _shared_context(trust_env=trust_env)
    return httpx.AsyncClient(verify=verify, timeout=timeout, trust_env=trust_env, **options)


@cache
def _shared_context(*, trust_env: bool) -> ssl.SSLContext:
    # To make one takes 20 to 40 ms of processor time, for all root certificates. Clients do not change it.
    import httpx

    return httpx.create_ssl_context(trust_env=trust_env)
