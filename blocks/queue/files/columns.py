"""Columns of files as fields of tasks: by their names, or as params of tasks of one type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import ValidationError

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.json_text import from_json
from organism_flows.blocks.queue.models.operations import NewTask
from organism_flows.blocks.validation import first_error

PARAM = "params."
"""Prefix of the name of a column whose values are one of the params."""
FIELDS = frozenset(NewTask.model_fields)
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True, slots=True)
class Columns:
    """A mapping from the columns of a file, or the keys of its JSON objects, to fields of tasks."""

    type: str | None = None
    """Type of all tasks; columns are then their params. `None` means that columns are named after fields."""
    to: Mapping[str, str] = field(default_factory=dict)
    """Target by column, if its name does not say it: a field, ``params.<name>``, or an empty text to leave it
    out."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields for tasks whose row does not give them. Params are merged."""

    def __post_init__(self) -> None:
        for column, target in self.to.items():
            if target and not _is_target(target):
                raise ConfigurationError(
                    f"the column {column[:80]!r} is mapped to {target[:80]!r}, which no task has",
                    f"map it to {', '.join(sorted(FIELDS))} or {PARAM}<name>",
                )

    @classmethod
    def of(cls, type: str | None, mapped: Iterable[str], defaults: Mapping[str, Any] | None = None) -> Self:
        """Return the columns that command-line options describe.

        Args:
            type: Type of the tasks. `None` means that the file gives it.
            mapped: Texts such as ``text=params.input``. Nothing after the sign leaves the column out.
            defaults: Fields for tasks whose row does not give them.

        Raises:
            ConfigurationError: One of the texts is wrong.
        """
        to: dict[str, str] = {}
        for text in mapped:
            # A column may have the sign in its name, a field may not.
            column, sign, target = text.rpartition("=")
            if not sign or not column or column in to:
                raise ConfigurationError(
                    f"{text[:80]!r} maps no column", "write each column once: --map column=params.name"
                )
            to[column] = target
        return cls(type, to, defaults or {})

    def target(self, column: str) -> str | None:
        """Return the field or param that a column becomes. `None` means it is left out."""
        if column in self.to:
            return self.to[column] or None
        if _PANDAS_INDEX.fullmatch(column):
            return None
        return column if self.type is None or column.startswith(PARAM) else PARAM + column

    def targets(self, header: Sequence[str], name: str) -> list[str | None]:
        """Return the field or param that each column of a file becomes. `None` means it is left out.

        Args:
            header: Names of the columns.
            name: Name of the file.

        Raises:
            ConfigurationError: These columns do not describe tasks.
        """
        targets = [self.target(column) for column in header]
        used = [target for target in targets if target]
        fields = f"name columns {', '.join(sorted(FIELDS))} or {PARAM}<name>"
        if twice := [target for target in used if used.count(target) > 1]:
            raise ConfigurationError(
                f"the header of {name} has {twice[0][:80]!r} twice", "name each column once"
            )
        if unknown := [target for target in used if not _is_target(target)]:
            raise ConfigurationError(
                f"the header of {name} has an unknown column {unknown[0][:80]!r}",
                f"{fields}, or give a type whose params they are: `organism submit TYPE --file …`",
            )
        if self.type is None and "type" not in used:
            raise ConfigurationError(f"the header of {name} has no column 'type'", fields)
        if self.type is not None and (taken := {"type", "params"}.intersection(header) - self.to.keys()):
            column = min(taken)
            raise ConfigurationError(
                f"{name} has a column {column!r}, and the type is given",
                f"leave out the type, or say what the column is: --map {column}={PARAM}{column}",
            )
        self.refuse_missing(header, name)
        return targets

    def refuse_missing(self, found: Iterable[str], name: str) -> None:
        """Refuse a mapping of columns that a file does not have.

        Args:
            found: Columns of the file.
            name: Name of the file.

        Raises:
            ConfigurationError: A column is missing. Names the first.
        """
        if missing := sorted(self.to.keys() - {*found}):
            raise ConfigurationError(
                f"{name} has no column {missing[0][:80]!r}, which is mapped", "map one of its columns"
            )

    def fields(self, targets: Sequence[str | None], row: Sequence[Any]) -> dict[str, Any]:
        """Return the fields of a task from the cells of a row.

        A cell with None leaves its field out, but sets one of the params to null.

        Args:
            targets: What each cell becomes, as `targets` returns it.
            row: The cells. A `ValueError` stands for a cell that cannot be read.

        Raises:
            ValueError: A cell cannot be read, or the params are not an object.
        """
        fields = {**self.defaults} if self.type is None else {"type": self.type, **self.defaults}
        base, more = fields.pop("params", {}), {}
        for target, value in zip(targets, row, strict=True):
            if target is None:
                continue
            if isinstance(value, ValueError):
                raise ValueError(f"{target}: {value}")
            if target.startswith(PARAM):
                more[target.removeprefix(PARAM)] = value
            elif value is not None or target not in FIELDS:
                fields[target] = value
        params = fields.get("params", {})
        if isinstance(params, str):
            params = parse(params, "params: not JSON")
        if base or more:
            if not isinstance(params, dict):
                raise ValueError("params: not an object")
            params = {**base, **params, **more}
        return {**fields, "params": params}

    def fields_of(self, value: Any) -> Any:
        """Return the fields of a task from a JSON object.

        Raises:
            ValueError: The value is not an object, or two of its keys are the same field.
        """
        if not isinstance(value, dict):
            raise ValueError("not an object")
        targets = [self.target(key) for key in value]
        used = [target for target in targets if target]
        if len({*used}) < len(used):
            raise ValueError("two keys are the same field of a task")
        if self.type is not None and {"type", "params"}.intersection(value) - self.to.keys():
            raise ValueError("has a type or params of its own, and the type is given: leave out the type")
        return self.fields(targets, [*value.values()])


TASKS = Columns()
"""Columns that are named after the fields of tasks."""


def parse(text: str, complaint: str = "not JSON") -> Any:
    """Return the value of JSON text.

    Raises:
        ValueError: The text is not JSON. One line that begins with ``complaint``.
    """
    try:
        return from_json(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{complaint}: {error}") from None


def task_of(fields: Any) -> NewTask:
    """Return the task that ``fields`` describe.

    Raises:
        ValueError: They do not describe a task. One line that names the first wrong field.
    """
    try:
        return NewTask.model_validate(fields)
    except ValidationError as error:
        raise ValueError(first_error(error, name=lambda place: place or "task")) from None


def _is_target(name: str) -> bool:
    return name in FIELDS or (name.startswith(PARAM) and len(name) > len(PARAM))
