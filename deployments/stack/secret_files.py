"""The stack's secrets: files of mode 0600 in its home, generated on first use."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.stack_state import read_secret, same_server
from organism_flows.deployments.stack.state import write_atomically

RAY_TOKEN_FILE = "ray-token"  # noqa: S105 - a file's name
PREFECT_SECRET_FILE = "prefect-secret"  # noqa: S105 - a file's name
PREFECT_USER = "organism"
"""Prefect asks for ``user:password`` and compares all of it; the name only reads well."""


def ray_token(home: Path) -> Path:
    """Return the file with the token of the Ray cluster."""
    return _generated(home / RAY_TOKEN_FILE)


def prefect_secret(home: Path, own: str | None = None) -> Path:
    """Return the file with the ``user:password`` that the Prefect server asks for.

    Args:
        home: Folder of the stack.
        own: What the operator wants it to be. `None` keeps what is there.
    """
    path = home / PREFECT_SECRET_FILE
    if own is not None and read_secret(path) != own:
        write_atomically(path, own + "\n")
    return _generated(path, prefix=f"{PREFECT_USER}:")


def own_prefect_secret(prefect_api_url: str) -> str | None:
    """Return the secret that the operator's environment gives to the Prefect server, or None.

    ``PREFECT_SERVER_API_AUTH_STRING`` decides, and so does ``PREFECT_API_AUTH_STRING`` unless
    ``PREFECT_API_URL`` names another server, whose secret it then is.

    Args:
        prefect_api_url: Where the stack's server answers.

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
    # A file that a full disk left empty is no secret.
    if not read_secret(path):
        write_atomically(path, f"{prefix}{secrets.token_hex(32)}\n")
    path.chmod(0o600)
    return path
