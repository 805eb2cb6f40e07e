"""Filters of tasks, as words that a person types."""

from __future__ import annotations

import shlex
from typing import Any

from pydantic import ValidationError

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import TaskFilter
from organism_flows.blocks.validation import first_error

FIELDS = tuple(TaskFilter.model_fields)


def filter_of(words: str) -> TaskFilter:
    """Return the filter that words such as ``status=failed type=echo`` mean. None mean all tasks.

    Raises:
        ConfigurationError: A word is not a field and a value, or a value is not acceptable.
    """
    given: dict[str, Any] = {}
    try:
        parts = shlex.split(words)
    except ValueError as error:
        raise ConfigurationError(f"the filter cannot be read: {error}", "close the quotation") from None
    for word in parts:
        name, sign, value = word.partition("=")
        if not sign or name not in FIELDS:
            raise ConfigurationError(f"{word!r} is not a field and a value", f"fields: {', '.join(FIELDS)}")
        if name == "status":
            given.setdefault(name, []).extend(value.split(","))
        else:
            given[name] = value
    try:
        return TaskFilter.model_validate(given)
    except ValidationError as error:
        raise ConfigurationError(first_error(error), "choose another value") from None


def text_of(filter: TaskFilter) -> str:
    """Return the words that mean a filter."""
    given = filter.model_dump(mode="json", exclude_defaults=True)
    return shlex.join(
        f"{name}={','.join(value) if isinstance(value, list) else value}" for name, value in given.items()
    )
