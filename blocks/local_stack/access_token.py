"""The token of this user's organism and gateway, and how programs find it."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.local_stack.stack_state import read_stack
from organism_flows.blocks.settings import Settings

TOKEN_FILE = "token"  # noqa: S105 - a file's name
NEXT_STEP = (
    "set ORGANISM_TOKEN, or ORGANISM_HOME to the folder of the stack, whose file `token` only its user reads"
)


class GatewayAddress(NamedTuple):
    """URL of a gateway, and the token it asks for."""

    url: str
    token: str | None


def own_token(settings: Settings) -> SecretStr | None:
    """Return the token in effect: the setting, else the one in the file in the home, else `None`."""
    if settings.token is not None:
        return settings.token
    # An empty file does not count: a full disk may have left one.
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if token := (settings.home / TOKEN_FILE).read_text().strip():
            return SecretStr(token)
    return None


def make_token(settings: Settings) -> Path:
    """Return the path of the file with the token, of mode 0600.

    The file is created on first use. A token in the settings replaces its content.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    path = settings.home / TOKEN_FILE
    there = own_token(settings.model_copy(update={"token": None}))
    wanted = settings.token or there or SecretStr(secrets.token_urlsafe(32))
    try:
        if there != wanted:
            settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, wanted.get_secret_value(), replace=settings.token is not None)
        path.chmod(0o600)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the token to {path}: {error.strerror or error}",
            "set ORGANISM_HOME to a folder of your own, or ORGANISM_TOKEN",
        ) from None
    return path


def _write(path: Path, token: str, *, replace: bool) -> None:
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
        if replace or (path.exists() and not path.stat().st_size):
            os.replace(unfinished, path)
        else:
            # Unlike a rename: if two processes make a token, the second uses that of the first.
            with contextlib.suppress(FileExistsError):
                os.link(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def bearer(token: SecretStr | str | None) -> dict[str, str]:
    """Return the header that carries ``token``. Empty if there is none."""
    if token is None:
        return {}
    text = token.get_secret_value() if isinstance(token, SecretStr) else token
    return {"Authorization": f"Bearer {text}"}


def own_headers(settings: Settings) -> Mapping[str, str]:
    """Return the headers for the organism and the gateway that the settings name."""
    return bearer(own_token(settings))


def gateway_address(settings: Settings) -> GatewayAddress:
    """Return the address of the gateway: from the setting, else from the embedded stack in the home.

    Raises:
        ConfigurationError: Neither exists.
        StackError: The state file of the stack cannot be read.
    """
    url = settings.gateway_url
    if url is None and (stack := read_stack(settings.home)) is not None:
        url = stack.gateway_url or None
    if url is None:
        raise ConfigurationError(
            f"no gateway is known: ORGANISM_GATEWAY_URL is not set, and no stack with one is up in "
            f"{settings.home}",
            "run `organism up`, set ORGANISM_HOME or ORGANISM_GATEWAY_URL, or name its URL",
        )
    token = own_token(settings)
    return GatewayAddress(url, token.get_secret_value() if token else None)
