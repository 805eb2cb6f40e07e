"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any


def lazily_imported(package: str, modules: Mapping[str, str], name: str) -> Any:
    """Import ``name``, and keep it in ``package``. For the ``__getattr__`` of a package.

    Args:
        package: The package's ``__name__``.
        modules: The module of each name, relative to the package.
        name: The name that is missing.

    Raises:
        AttributeError: The package has no such name.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = getattr(import_module(f"{package}.{modules[name]}"), name)
    setattr(sys.modules[package], name, value)
    return value
