"""Lets a handler ask the organism it runs in."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol


class Introspection(Protocol):
    """What a handler may ask."""

    def health(self) -> dict[str, Any]: ...

    def status(self) -> dict[str, Any]: ...


ORGANISM: ContextVar[Introspection] = ContextVar("organism")
"""Set in the context every handler runs in."""


def current_organism() -> Introspection:
    """The organism that runs the calling handler.

    Raises:
        LookupError: Called outside a handler.
    """
    return ORGANISM.get()
