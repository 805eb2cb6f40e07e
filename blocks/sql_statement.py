"""SQL files with named parameters and shared parts, as Postgres takes them.

A parameter is written ``:name``. Postgres gets it as ``$1``, ``$2``, ... in the order in which the names
first appear. What several statements have in common is a file in the folder ``parts``, and ``{name}`` stands
for its text. This module does not import the queue, whose statements are written so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PARAMETER = re.compile(r"(?<![:\w]):([a-z]\w*)")
_PART = re.compile(r"\{([a-z_]+)\}")


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
            raise TypeError(f"parameters without a value: {missing}; values without a parameter: {unknown}")
        return [values[name] for name in self.parameters]


def read_sql(folder: Path, name: str) -> str:
    """Return the SQL of ``<name>.sql`` in ``folder``, with its parts in place and its parameters by name."""
    text = (folder / f"{name}.sql").read_text(encoding="utf-8")
    return _PART.sub(lambda part: read_sql(folder, f"parts/{part[1]}").rstrip(), text)
