"""The state of the embedded stack, in a file that `organism up` writes and every program reads."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr, ValidationError

from organism_flows.blocks.errors import ConfigurationError, StackError
from organism_flows.blocks.settings import Settings

STATE_FILE = "stack.json"


class ProcessRef(BaseModel):
    """A process, identified so that it cannot be confused with a later one of the same pid."""

    pid: int
    created: float
    """Start time in seconds since the epoch, as psutil reports it."""


class StackState(BaseModel):
    """Addresses and processes of a running embedded stack. Holds no secret."""

    home: Path
    stack_id: str
    """Also set in the environment of every process of the stack, as ``ORGANISM_STACK_ID``."""
    dsn: str
    """Connection URL over a Unix socket, without a password. Empty if the stack was started with an external
    database: its URL is a secret and stays in the environment."""
    dsn_mark: str = ""
    """Fingerprint of the external database the stack was started with. Does not reveal its URL."""
    ray_address: str
    """``host:port`` of the Ray head."""
    ray_token_path: Path
    ray_dashboard_url: str
    prefect_api_url: str
    prefect_ui_url: str
    prefect_secret_path: Path | None = None
    """File with the ``user:password`` that the Prefect server asks for. `None` means that an older version
    started the server, which asks for none."""
    organism_url: str
    """Base of the organism's HTTP routes, ending in ``/organism``."""
    gateway_url: str = ""
    """Base of the gateway's HTTP routes. Empty if the stack has no gateway."""
    processes: dict[str, ProcessRef]
    """Processes by role: postgres, ray, prefect, worker, gateway."""


def read_stack(home: Path) -> StackState | None:
    """Return the state that a stack left in ``home``, or `None`. It may be stale: check the processes.

    Raises:
        StackError: The file exists and cannot be read.
    """
    path = home / STATE_FILE
    try:
        return StackState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise StackError(f"cannot read {path}: {reason}", "run `organism down`, which clears it") from None


def prefect_environment_of(stack: StackState) -> dict[str, str]:
    """Return the variables that let Prefect connect to the server of ``stack``."""
    secret = read_secret(stack.prefect_secret_path)
    return {
        "PREFECT_API_URL": stack.prefect_api_url,
        # Prefect reads it only from a variable or a profile: no setting names a file (3.8.8).
        **({"PREFECT_API_AUTH_STRING": secret} if secret else {}),
    }


def read_secret(path: Path | None) -> str:
    """Return the secret in the file ``path``, or an empty string if it does not exist or cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_text().strip() if path else ""
    return ""


def running_stack(home: Path) -> StackState:
    """Return the state of the embedded stack in ``home``.

    Raises:
        StackError: No stack is up there, or its state cannot be read.
    """
    stack = read_stack(home)
    if stack is None:
        raise StackError(f"no stack is up in {home}", "run `organism up`, or set ORGANISM_HOME")
    return stack


def environment_of(stack: StackState) -> dict[str, str]:
    """Return the variables that let Prefect and Ray connect to ``stack``. One of them is a secret."""
    return {
        **prefect_environment_of(stack),
        "RAY_ADDRESS": stack.ray_address,
        # An explicit address never turns token authentication on by itself (Ray 2.60); without these a
        # driver waits 20 s and fails with "Failed to connect".
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(stack.ray_token_path),
        # Meant for macOS and Windows: keeps 127.0.0.1 as it is. Without it a driver tries to reach a loopback
        # cluster on the outer address of this machine, where by design nothing listens.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def same_server(named: str | None, own: str) -> bool:
    """Return True if the URL ``named`` is missing or names the server of the URL ``own``."""
    if not named:
        return True
    one, other = urlsplit(named), urlsplit(own)
    # Both names of loopback are in use, also in Prefect's documentation.
    return (one.scheme, one.netloc.replace("localhost", "127.0.0.1")) == (other.scheme, other.netloc)


def queue_dsn(settings: Settings) -> SecretStr:
    """Return the connection URL in effect: that of the setting, or of the embedded stack.

    Raises:
        ConfigurationError: Neither exists.
    """
    if settings.dsn is not None:
        return settings.dsn
    stack = read_stack(settings.home)
    if stack is not None and stack.dsn:
        return SecretStr(stack.dsn)
    raise ConfigurationError(
        f"no database: ORGANISM_DSN is not set and no embedded stack is up in {settings.home}",
        "run `organism up`, or set ORGANISM_DSN",
    )


def prefect_ui_url(home: Path) -> str | None:
    """Return the base of Prefect's UI, or `None` if it is not known.

    It is that of the variable PREFECT_UI_URL, or else of the embedded stack in ``home``.
    """
    url = os.environ.get("PREFECT_UI_URL")
    if url is None:
        with contextlib.suppress(StackError):
            stack = read_stack(home)
            url = stack.prefect_ui_url if stack else None
    # It becomes a link.
    return url.rstrip("/") if url and url.startswith(("http://", "https://")) else None


def organism_url(settings: Settings) -> str | None:
    """Return the base of the organism's HTTP routes, or `None` if it is not known.

    It is that of the setting, or else of the embedded stack.
    """
    if settings.url:
        return settings.url
    stack = read_stack(settings.home)
    return stack.organism_url if stack else None
