"""Access of a handler to the organism that it runs in."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol


class Introspection(Protocol):
    """What a handler can ask the organism."""

    def health(self) -> dict[str, Any]: ...

    def status(self) -> dict[str, Any]: ...


ORGANISM: ContextVar[Introspection] = ContextVar("organism")
"""The organism; set in the context that every handler on a replica runs in."""


def current_organism() -> Introspection:
    """Return the organism that runs the calling handler.

    Raises:
        LookupError: Called outside a handler.
    """
    return ORGANISM.get()
