"""What the embedded stack says of itself: the state file `organism up` writes and everything reads."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr, ValidationError

from organism_flows.blocks.errors import ConfigurationError, StackError
from organism_flows.blocks.settings import Settings

STATE_FILE = "stack.json"


class ProcessRef(BaseModel):
    """A process that cannot be mistaken for a later one of the same pid."""

    pid: int
    created: float
    """Start time in seconds since the epoch, as psutil reports it."""


class StackState(BaseModel):
    """Addresses and processes of a running embedded stack. Holds no secret."""

    home: Path
    stack_id: str
    """Also in the environment of every process of the stack, as ``ORGANISM_STACK_ID``."""
    dsn: str
    """Unix-socket connection URL, without a password; or the external database the stack was started with,
    then empty, because its URL is a secret that stays in the environment."""
    dsn_mark: str = ""
    """Tells whether the stack was started with this external database, without telling which it is."""
    ray_address: str
    """``host:port`` of the Ray head."""
    ray_token_path: Path
    ray_dashboard_url: str
    prefect_api_url: str
    prefect_ui_url: str
    prefect_secret_path: Path | None = None
    """File with the ``user:password`` that the Prefect server asks for. ``None``: an older version started
    it, and it asks for nothing."""
    organism_url: str
    """Base of the organism's HTTP routes, ending in ``/organism``."""
    gateway_url: str = ""
    """Base of the gateway's HTTP routes; empty: the stack has none."""
    processes: dict[str, ProcessRef]
    """By role: postgres, ray, prefect, worker, gateway."""


def read_stack(home: Path) -> StackState | None:
    """The state a stack left in ``home``, or None. It may be stale: the processes decide.

    Raises:
        StackError: The file is there and cannot be understood.
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
    """Return the variables by which Prefect finds and enters the server of ``stack``."""
    secret = read_secret(stack.prefect_secret_path)
    return {
        "PREFECT_API_URL": stack.prefect_api_url,
        # Prefect reads it from nowhere but a variable or a profile: no setting names a file (3.8.8).
        **({"PREFECT_API_AUTH_STRING": secret} if secret else {}),
    }


def read_secret(path: Path | None) -> str:
    """Return the secret in the file ``path``, or an empty string if there is none that we may read."""
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
    """The variables by which Prefect and Ray find ``stack``. One of them is a secret."""
    return {
        **prefect_environment_of(stack),
        "RAY_ADDRESS": stack.ray_address,
        # An explicit address never turns token authentication on by itself (Ray 2.60); without these a
        # driver waits 20 s and fails with "Failed to connect".
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(stack.ray_token_path),
        # Meant for macOS and Windows: makes 127.0.0.1 stay 127.0.0.1. Else a driver looks for a loopback
        # cluster on this machine's outer address, where by design nothing listens.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def join_stack(home: Path) -> StackState | None:
    """Point this process's Prefect and Ray at the embedded stack in ``home``, where it names no others.

    Call it before importing Ray, which reads its settings at import. Prefect does so as well, and reads them
    again here if it has been imported. Variables that are already set win, so a process with an external
    server or cluster keeps it, and sends it none of our secrets.
    """
    stack = read_stack(home)
    if stack is not None:
        wanted = environment_of(stack)
        if os.environ.get("RAY_ADDRESS", stack.ray_address) != stack.ray_address:
            wanted = prefect_environment_of(stack)
        if not same_server(os.environ.get("PREFECT_API_URL"), stack.prefect_api_url):
            wanted.pop("PREFECT_API_AUTH_STRING", None)
        missing = {name: value for name, value in wanted.items() if name not in os.environ}
        os.environ.update(missing)
        if missing and (prefect := sys.modules.get("prefect.context")):
            # Else flows in a program that imports Prefect first would start a server of their own.
            prefect.refresh_global_settings_context()
    return stack


def same_server(named: str | None, own: str) -> bool:
    """Return True if the URL ``named`` is missing or leads to the server of the URL ``own``."""
    if not named:
        return True
    one, other = urlsplit(named), urlsplit(own)
    # Both names of loopback are in use, in documentation of Prefect too.
    return (one.scheme, one.netloc.replace("localhost", "127.0.0.1")) == (other.scheme, other.netloc)


def queue_dsn(settings: Settings) -> SecretStr:
    """The database in effect: the setting, or the embedded stack's.

    Raises:
        ConfigurationError: Neither is there.
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


def organism_url(settings: Settings) -> str | None:
    """Base of the organism's HTTP routes: the setting, or the embedded stack's; None: neither is there."""
    if settings.url:
        return settings.url
    stack = read_stack(settings.home)
    return stack.organism_url if stack else None
