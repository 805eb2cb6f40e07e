"""Files of tasks, read line by line: JSON lines, CSV and the rows of Parquet, each a task or why it is none.

Whatever was read so far has a digest, by which a file that was loaded in part is known again. It is the same
whether lines end in ``\\n`` or ``\\r\\n``, and whether the last one ends at all.
"""

from __future__ import annotations

import csv
import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from blocks.errors import ConfigurationError
from blocks.jsonb import from_json
from blocks.queue.models import NewTask

LINE_LIMIT_BYTES = 4_000_000
"""Longest line; the params of a task may have a quarter of that."""
BAD_LINES_KEPT = 20
PARAM = "params."
"""What the name of a column begins with whose values are one of the params."""
COLUMNS = {*NewTask.model_fields}
PARQUET = (".parquet", ".pq")
csv.field_size_limit(LINE_LIMIT_BYTES)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no task."""

    file: str
    line: int
    """Counted from 1; of a CSV row over several lines, the last."""
    why: str

    @property
    def place(self) -> str:
        """Where in its file: ``line 7``, or ``row 7`` of a Parquet file."""
        return f"{'row' if is_parquet(self.file) else 'line'} {self.line}"

    def __str__(self) -> str:
        where = f"{self.file} {self.place}" if is_parquet(self.file) else f"{self.file}:{self.line}"
        return f"{where}: {self.why}"


class BadLines(ConfigurationError):
    """Lines are bad, and so nothing was loaded."""

    first: Sequence[BadLine] = ()
    """The first of them, in order."""


class TaskLines:
    """The tasks of one file, in order; iterate over it once. Empty lines are passed over.

    Args:
        source: Its bytes: text in UTF-8, or Parquet, whose rows then count as lines.
        name: What the file is called in messages; ``.csv`` and ``.parquet`` at its end say what it is, and
            anything else is JSON lines.
        mark: A number of lines whose digest is wanted as `marked`.
    """

    def __init__(self, source: BinaryIO, name: str, *, mark: int = 0) -> None:
        self.name = name
        self.lines = 0
        """Lines read so far, those of the task just given included."""
        self.bytes = 0
        self.marked: bytes | None = None
        """Digest of the first ``mark`` lines; None: there are not so many."""
        self._source = source
        self._mark = mark
        self._digest = hashlib.sha256()

    def digest(self) -> bytes:
        """SHA-256 of the lines read so far."""
        return self._digest.digest()

    def __iter__(self) -> Iterator[NewTask | BadLine]:
        if is_parquet(self.name):
            return self._parquet()
        return self._csv() if Path(self.name).suffix.lower() == ".csv" else self._json_lines()

    def _json_lines(self) -> Iterator[NewTask | BadLine]:
        for line in self._lines():
            if line is None:
                yield self._bad(f"longer than {LINE_LIMIT_BYTES:,} bytes")
            elif line.strip():
                try:
                    yield task_of(parse(line.decode()))
                except ValueError as error:
                    yield self._bad(str(error))

    def _csv(self) -> Iterator[NewTask | BadLine]:
        too_long = False

        def texts() -> Iterator[str]:
            nonlocal too_long
            for line in self._lines():
                too_long = too_long or line is None
                # Bytes that are not UTF-8 become half surrogate pairs, which no text of a task may hold.
                yield (line or b"\n").decode("utf-8-sig", "surrogateescape")

        rows = csv.reader(texts())
        columns: list[str] | None = None
        while True:
            try:
                row = next(rows, None)
                if too_long:
                    too_long = False
                    raise csv.Error(f"longer than {LINE_LIMIT_BYTES:,} bytes")
                if row is None:
                    return
                if columns is None:
                    columns = columns_of([column.strip() for column in row], self.name)
                elif row:
                    yield task_of(fields_of(columns, _cells(columns, row)))
            except (csv.Error, ValueError) as error:
                yield self._bad(str(error))

    def _parquet(self) -> Iterator[NewTask | BadLine]:
        from blocks.queue.parquet import rows  # pyarrow takes a while to import

        for content, columns, row in rows(self._source, self.name):
            self._digest.update(content + b"\n")
            self._count(len(content))
            try:
                if len(content) > LINE_LIMIT_BYTES:
                    raise ValueError(f"longer than {LINE_LIMIT_BYTES:,} bytes")
                yield task_of(fields_of(columns, row))
            except ValueError as error:
                yield self._bad(str(error))

    def _lines(self) -> Iterator[bytes | None]:
        """Lines as they are; None for one that is too long."""
        while line := self._source.readline(LINE_LIMIT_BYTES):
            size, whole = len(line), line
            # Never the whole of it in memory.
            while not line.endswith(b"\n") and len(line) == LINE_LIMIT_BYTES:
                self._digest.update(line)
                line = self._source.readline(LINE_LIMIT_BYTES)
                size += len(line)
            self._digest.update(line.rstrip(b"\r\n") + b"\n")
            self._count(size)
            yield whole if size <= LINE_LIMIT_BYTES else None

    def _count(self, size: int) -> None:
        self.lines += 1
        self.bytes += size
        if self.lines == self._mark:
            self.marked = self.digest()

    def _bad(self, why: str) -> BadLine:
        return BadLine(self.name, self.lines, why)


def is_parquet(name: str) -> bool:
    """Whether a file of this name is a Parquet file."""
    return Path(name).suffix.lower() in PARQUET


def parse(text: str, complaint: str = "not JSON") -> Any:
    """The value of JSON text.

    Raises:
        ValueError: It is none; one line that begins with ``complaint``.
    """
    try:
        return from_json(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{complaint}: {error}") from None


def task_of(fields: Any) -> NewTask:
    """The task that ``fields`` describe.

    Raises:
        ValueError: They describe none; one line that names the first field that is wrong.
    """
    try:
        return NewTask.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "task"
        raise ValueError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None


def columns_of(columns: list[str], name: str) -> list[str]:
    """The columns of a file, if they are those of tasks.

    Raises:
        ConfigurationError: One is none, or is there twice, or there is no ``type``.
    """
    wrong = [c for c in columns if c not in COLUMNS and not (c.startswith(PARAM) and len(c) > len(PARAM))]
    if wrong or len({*columns}) < len(columns) or "type" not in columns:
        what = f"has an unknown column {wrong[0][:80]!r}" if wrong else "needs each column once, and `type`"
        raise ConfigurationError(
            f"the header of {name} {what}",
            f"name columns {', '.join(sorted(COLUMNS))} or {PARAM}<name>",
        )
    return columns


def _cells(columns: list[str], row: list[str]) -> list[str | None]:
    if len(row) != len(columns):
        raise ValueError(f"has {len(row)} values for {len(columns)} columns")
    # An empty cell says nothing, unless it is one of the params.
    pairs = zip(columns, row, strict=True)
    return [value if value or column.startswith(PARAM) else None for column, value in pairs]


def fields_of(columns: list[str], row: Sequence[Any]) -> dict[str, Any]:
    """The fields of a task in the cells of a row; None says nothing, but of one of the params.

    Raises:
        ValueError: A cell is one, or they describe no params.
    """
    fields: dict[str, Any] = {}
    more: dict[str, Any] = {}
    for column, value in zip(columns, row, strict=True):
        if isinstance(value, ValueError):
            raise ValueError(f"{column}: {value}")
        if column.startswith(PARAM):
            more[column.removeprefix(PARAM)] = value
        elif value is not None:
            fields[column] = value
    if isinstance(fields.get("params"), str):
        fields["params"] = parse(fields["params"], "params: not JSON")
    if more:
        params = fields.setdefault("params", {})
        if not isinstance(params, dict):
            raise ValueError("params: not an object")
        params.update(more)
    return fields


@dataclass(slots=True)
class Checked:
    """What is in some files."""

    tasks: int = 0
    bad: int = 0
    first_bad: list[BadLine] = field(default_factory=list)
    """The first of the bad lines, in order."""

    def count(self, found: NewTask | BadLine) -> None:
        """Count one line in."""
        if isinstance(found, NewTask):
            self.tasks += 1
            return
        self.bad += 1
        if len(self.first_bad) < BAD_LINES_KEPT:
            self.first_bad.append(found)

    def refuse_bad(self, what: str, lines: Iterable[str] | None = None, *, shown: int = 5) -> None:
        """Refuse all of it if a line is bad.

        Args:
            what: The files.
            lines: The bad lines in words, if not by their files.
            shown: Most of them that are named.

        Raises:
            BadLines: It names the first of them and counts the others.
        """
        if not self.bad:
            return
        named = list(lines or map(str, self.first_bad))[:shown]
        more = f" (and {self.bad - len(named)} more)" if self.bad > len(named) else ""
        refusal = BadLines(
            f"{what}: {self.bad} of {self.bad + self.tasks} lines are bad, nothing was submitted: "
            f"{'; '.join(named)}{more}",
            "correct them and submit the file again",
        )
        refusal.first = self.first_bad
        raise refusal


def matching(pattern: str) -> list[Path]:
    """The files that a name or a pattern such as ``data/**/*.jsonl`` fits, in order.

    Raises:
        ConfigurationError: There is none.
    """
    found = sorted(glob.glob(pattern, recursive=True)) if not Path(pattern).exists() else [pattern]
    paths = [path for path in map(Path, found) if not path.is_dir()]
    if not paths:
        raise ConfigurationError(
            f"no file fits {pattern}", "name files that are there, on the machine that reads"
        )
    return paths


def open_file(path: Path) -> BinaryIO:
    """The bytes of a file.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path | str, error: OSError) -> ConfigurationError:
    """The one line for a file that cannot be read."""
    return ConfigurationError(f"cannot read {path}: {error.strerror}", "name a readable file")
