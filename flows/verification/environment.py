"""The settings in effect, where each came from, and versions known not to go together."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from pydantic import AliasChoices, SecretStr

from blocks.settings import OLDER_NAMES, Settings, load_settings
from flows.verification.finding import Finding, failed, ok

TOO_NEW_FASTAPI = (0, 151)
"""From here on an explicit null in a request is refused, and Prefect 3.8's own client sends such; from 0.156
on its server does not start."""


async def check() -> list[Finding]:
    """All findings about this process's settings and packages."""
    settings = load_settings()
    return [
        ok("environment: settings", "; ".join(_setting(settings, name) for name in Settings.model_fields)),
        ok("environment: servers", "; ".join(f"{name}={os.environ.get(name) or 'unset'}" for name in THEIRS)),
        versions(version("prefect"), version("fastapi")),
    ]


THEIRS = ("RAY_ADDRESS", "PREFECT_API_URL")


def versions(prefect: str, fastapi: str) -> Finding:
    """Whether these versions go together."""
    seen = f"Python {platform.python_version()}, prefect {prefect}, fastapi {fastapi}, ray {version('ray')}"
    numbers = tuple(int(part) for part in fastapi.split(".")[:2])
    if prefect.startswith("3.8.") and numbers >= TOO_NEW_FASTAPI:
        return failed(
            "environment: versions",
            f"{seen}: prefect {prefect} does not work with fastapi {fastapi}",
            "install the locked versions (`make install`), or fastapi 0.141.1",
        )
    return ok("environment: versions", seen)


def _setting(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    shown = "***" if isinstance(value, SecretStr) else value
    return f"{name}={'unset' if value is None else shown} ({_source(name)})"


def _source(name: str) -> str:
    """The variable a setting came from."""
    alias = Settings.model_fields[name].validation_alias
    names = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []
    for variable in names or [f"ORGANISM_{name.upper()}"]:
        if os.environ.get(variable):
            return f"{variable}, deprecated" if variable in OLDER_NAMES else variable
    return "default"
