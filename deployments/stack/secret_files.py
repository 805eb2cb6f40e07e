"""Secrets of the stack: files with mode 0600 in its home, generated on first use."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.local_stack.stack_state import read_secret, same_server
from organism_flows.deployments.stack.state import write_atomically

RAY_TOKEN_FILE = "ray-token"  # noqa: S105 - a file's name
PREFECT_SECRET_FILE = "prefect-secret"  # noqa: S105 - a file's name
PREFECT_USER = "organism"
"""User in Prefect's ``user:password``. Prefect compares the whole text, so any name would do."""


def ray_token(home: Path) -> Path:
    """Return the file with the token of the Ray cluster."""
    return _generated(home / RAY_TOKEN_FILE)


def prefect_secret(home: Path, own: str | None = None) -> Path:
    """Return the file with the ``user:password`` that the Prefect server requires.

    Args:
        home: Folder of the stack.
        own: Value that the operator has set; `None` keeps the value in the file.
    """
    path = home / PREFECT_SECRET_FILE
    if own is not None and read_secret(path) != own:
        write_atomically(path, own + "\n")
    return _generated(path, prefix=f"{PREFECT_USER}:")


def own_prefect_secret(prefect_api_url: str) -> str | None:
    """Return the secret that the operator's environment sets for the Prefect server, or `None`.

    ``PREFECT_SERVER_API_AUTH_STRING`` sets it. ``PREFECT_API_AUTH_STRING`` does so as well, unless
    ``PREFECT_API_URL`` names another server: then it is the secret of that server.

    Args:
        prefect_api_url: API URL of the stack's server.

    Raises:
        ConfigurationError: The two differ, or Prefect cannot compare the value.
    """
    server = os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or None
    client = os.environ.get("PREFECT_API_AUTH_STRING") or None
    if not same_server(os.environ.get("PREFECT_API_URL"), prefect_api_url):
        client = None
    if server and client and server != client:
        raise ConfigurationError(
            "PREFECT_SERVER_API_AUTH_STRING and PREFECT_API_AUTH_STRING differ, so no command could sign in",
            "set one of them, or both to the same value",
        )
    own = server or client
    # Prefect 3.8.8 compares text with `hmac.compare_digest`, which raises on anything but ASCII.
    if own and not (own.isascii() and own.isprintable() and own == own.strip()):
        name = "PREFECT_SERVER_API_AUTH_STRING" if server else "PREFECT_API_AUTH_STRING"
        raise ConfigurationError(
            f"{name} holds characters that Prefect cannot compare",
            "use printable ASCII without spaces around it: user:password",
        )
    return own


def _generated(path: Path, *, prefix: str = "") -> Path:
    # A full disk may have left the file empty.
    if not read_secret(path):
        write_atomically(path, f"{prefix}{secrets.token_hex(32)}\n")
    path.chmod(0o600)
    return path
