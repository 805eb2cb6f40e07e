"""The environment that a replica has, without values that may be secrets."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("organism-flows", "ray", "prefect", "fastapi", "pydantic", "asyncpg")
SHOWN = re.compile(
    r"(ORGANISM|RAY|SERVE|PREFECT|CUDA|NVIDIA|OMP|MKL|OPENBLAS|PYTHON|UV|LC)_?.*|PATH|HOME|LANG|TZ|VIRTUAL_ENV|PWD|USER"
)
"""Variables whose values are shown. Of all others only the names are: any of them may hold a secret."""
SECRET = re.compile(
    r"TOKEN|SECRET|PASS|KEY|CREDENTIAL|AUTH_STRING|COOKIE|DSN|JOB_CONFIG|RUNTIME_ENV", re.IGNORECASE
)
PASSWORD_IN_URL = re.compile(r"(?<=//)([^/@\s:]*):[^/@\s]*@")


def environment() -> dict[str, Any]:
    """Return interpreter, packages, machine, GPUs and environment variables, as plain data."""
    shown = {name: value for name, value in sorted(os.environ.items()) if SHOWN.fullmatch(name)}
    return {
        "python": platform.python_version(),
        "packages": packages(),
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES") or None,
        "folder": os.getcwd(),
        "import_path": sys.path,
        "variables": {name: masked(name, value) for name, value in shown.items()},
        "other_variables": sorted(set(os.environ) - set(shown)),
    }


@cache
def packages() -> dict[str, str | None]:
    """Return the versions of `PACKAGES`; `None` means not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def masked(name: str, value: str) -> str:
    """Return ``value`` of the variable ``name``, or stars if it may be a secret."""
    if SECRET.search(name) and not name.endswith("_PATH"):
        return "***"
    return PASSWORD_IN_URL.sub(r"\1:***@", value)
