"""What pydantic refuses, as one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

VALUE_LIMIT = 100
"""Most characters of a value that are shown."""


def first_error(error: ValidationError, *, name: Callable[[str], str] = str, with_value: bool = False) -> str:
    """Return one line about the first wrong field: its place, what is wrong, and how many others are.

    Args:
        error: What pydantic raised.
        name: Returns the user's name for the field at a place such as ``organs[0].id``. An empty place is
            the whole value.
        with_value: Show the value, cut. It must not be a secret.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    place = name("".join(parts).removeprefix("."))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    match first["type"]:
        case "extra_forbidden":
            return f"{place} is not a known field{more}"
        case "missing":
            return f"{place} is missing{more}"
    message = first["msg"].removeprefix("Value error, ")
    # A URI may hold a password.
    value = re.sub(r"://[^/@]*@", "://***@", repr(first["input"])) if with_value else ""
    return f"{place}: {message}{f', got {value:.{VALUE_LIMIT}}' if with_value else ''}{more}"
