"""TLS contexts for several clients: one loads all root certificates, in 20 to 40 ms of processor time."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl


@cache
def shared_context(*, trust_env: bool) -> ssl.SSLContext:
    """Return the TLS context of all HTTP clients of this process, for `verify` of an `httpx` client.

    Do not change it.

    Args:
        trust_env: Read ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, as the client does with the same option.
    """
    import httpx

    return httpx.create_ssl_context(trust_env=trust_env)
