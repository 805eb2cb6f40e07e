"""SQL with named parameters, as Postgres takes it.

A parameter is written ``:name``. Postgres gets it as ``$1``, ``$2``, ... in the order in which the names
first appear. This module does not import the queue, whose statements are written so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_PARAMETER = re.compile(r"(?<![:\w]):([a-z]\w*)")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as Postgres takes it."""

    text: str
    parameters: tuple[str, ...]
    """Names of its parameters, in the order of their numbers."""

    @classmethod
    def of(cls, sql: str) -> Statement:
        """Return the statement for SQL with named parameters."""
        names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
        numbers = {name: f"${number}" for number, name in enumerate(names, start=1)}
        return cls(_PARAMETER.sub(lambda found: numbers[found[1]], sql), names)

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        """Return the values in the order of the numbers.

        Raises:
            TypeError: A parameter has no value, or a value no parameter.
        """
        if values.keys() != set(self.parameters):
            missing = ", ".join(sorted(set(self.parameters) - values.keys())) or "none"
            unknown = ", ".join(sorted(values.keys() - set(self.parameters))) or "none"
            raise TypeError(f"parameters that are missing: {missing}; that the statement has not: {unknown}")
        return [values[name] for name in self.parameters]
