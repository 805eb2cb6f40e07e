"""Checks of this process: disk space, the settings and their sources, versions that do not work together."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from pydantic import AliasChoices, SecretStr

from organism_flows.blocks.disk_space import HELP, full_disks
from organism_flows.blocks.finding import Finding, failed, ok
from organism_flows.blocks.settings import OLDER_NAMES, Settings, load_settings

TOO_NEW_FASTAPI = (0, 151)
"""First version of FastAPI that refuses an explicit null in a request, which Prefect 3.8's own client sends.

From 0.156 on, Prefect's server does not start.
"""


async def check() -> list[Finding]:
    """Return all findings about the disks, settings and packages of this process."""
    settings = load_settings()
    return [
        disks(settings),
        ok("environment: settings", "; ".join(_setting(settings, name) for name in Settings.model_fields)),
        ok("environment: servers", "; ".join(f"{name}={os.environ.get(name) or 'unset'}" for name in THEIRS)),
        versions(version("prefect"), version("fastapi"), version("sqlalchemy")),
    ]


def disks(settings: Settings) -> Finding:
    """Return whether the disks that the stack writes to have free space."""
    full = full_disks(settings.home)
    if full:
        return failed("environment: disks", "; ".join(full), HELP)
    return ok("environment: disks", "there is room where the stack writes")


THEIRS = ("RAY_ADDRESS", "PREFECT_API_URL")


TOO_NEW_SQLALCHEMY = (2, 1)
"""First version of SQLAlchemy with which Prefect 3.8's scheduler cannot create runs: no schedule fires."""


def versions(prefect: str, fastapi: str, sqlalchemy: str) -> Finding:
    """Return whether these versions work together."""
    seen = (
        f"Python {platform.python_version()}, prefect {prefect}, fastapi {fastapi}, "
        f"sqlalchemy {sqlalchemy}, ray {version('ray')}"
    )
    if prefect.startswith("3.8."):
        for name, there, too_new in (
            ("fastapi", fastapi, TOO_NEW_FASTAPI),
            ("sqlalchemy", sqlalchemy, TOO_NEW_SQLALCHEMY),
        ):
            if tuple(int(part) for part in there.split(".")[:2]) >= too_new:
                return failed(
                    "environment: versions",
                    f"{seen}: prefect {prefect} does not work with {name} {there}",
                    "install the locked versions (`make install`)",
                )
    return ok("environment: versions", seen)


def _setting(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    shown = "***" if isinstance(value, SecretStr) else value
    return f"{name}={'unset' if value is None else shown} ({_source(name)})"


def _source(name: str) -> str:
    """Return the environment variable that a setting came from, or ``default``."""
    alias = Settings.model_fields[name].validation_alias
    names = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []
    for variable in names or [f"ORGANISM_{name.upper()}"]:
        if os.environ.get(variable):
            return f"{variable}, deprecated" if variable in OLDER_NAMES else variable
    return "default"
