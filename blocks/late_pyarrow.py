"""Keeps Ray from importing pyarrow into processes that do not use it.

Each process of Ray imports pyarrow, and numpy with it, before it first serializes something, to register
how Arrow tables are serialized (2.60, ``ray/_private/arrow_serialization.py``). That takes 0.1 to 0.3 s of
processor time and 15 MB a process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PYARROW = "pyarrow"


def register_arrow_late() -> None:
    """Have Ray register its serializers of Arrow tables once this process imports pyarrow.

    Safe to call again.

    Only pyarrow can make an Arrow table, so each is serialized as before.
    """
    serialization: Any = import_module("ray._private.arrow_serialization")
    register = serialization._register_custom_datasets_serializers
    if getattr(register, "is_late", False):
        return

    def register_late(context: object) -> None:
        if PYARROW in sys.modules:
            register(context)
        else:
            sys.meta_path.insert(0, _AfterImport(lambda: register(context)))

    register_late.is_late = True  # type: ignore[attr-defined]
    serialization._register_custom_datasets_serializers = register_late


class _AfterImport(MetaPathFinder):
    """Calls a function when pyarrow has been imported.

    Args:
        then: The function.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to import pyarrow, and ``then`` to be called; `None` for all other modules."""
        if name != PYARROW:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_call(module: ModuleType) -> None:
            load(module)
            self._then()

        spec.loader.exec_module = load_and_call  # type: ignore[method-assign]
        return spec
