r"""Task files, read line by line: JSON lines, CSV or Parquet rows, each a task or the reason it is not.

The lines read so far have a digest, which identifies a file that was loaded in part. The digest is the same
whether lines end in ``\n`` or ``\r\n``, and whether the last line has an end.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from organism_flows.blocks.errors import ConfigurationError, RejectedRows
from organism_flows.blocks.queue.files.byte_streams import COMPRESSED, broken, text_stream
from organism_flows.blocks.queue.files.columns import PARAM, TASKS, Columns, parse, task_of
from organism_flows.blocks.queue.files.csv_rows import (
    Line,
    Record,
    delimiter_of,
    is_blank,
    named_delimiter,
    records,
    split,
    utf8,
)
from organism_flows.blocks.queue.models.operations import NewTask

LINE_LIMIT_BYTES = 4_000_000
"""Longest line, in bytes. The params of a task may have a quarter of that."""
BAD_LINES_KEPT = 20
"""Most bad lines that are kept for messages."""
PARQUET = (".parquet", ".pq")
CSV = (".csv", ".tsv")
_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A line that is not a task, and why."""

    file: str
    line: int
    """Counted from 1. For a CSV row over several lines, the first of them."""
    why: str

    @property
    def place(self) -> str:
        """Return the place in its file: ``line 7``, or ``row 7`` of a Parquet file."""
        return f"{'row' if is_parquet(self.file) else 'line'} {self.line}"

    def __str__(self) -> str:
        where = f"{self.file} {self.place}" if is_parquet(self.file) else f"{self.file}:{self.line}"
        return f"{where}: {self.why}"


class TaskFileReader:
    """The tasks of one file, in order. Iterate over it once. Empty lines and rows are skipped.

    Args:
        source: Bytes of the file: text in UTF-8, which may be compressed, or Parquet, whose rows count as
            lines.
        name: Name of the file in messages. The suffixes ``.csv``, ``.tsv``, ``.parquet`` and ``.pq`` give its
            format; any other means JSON lines. A suffix of compression, such as ``.gz`` or ``.zst``, may
            follow.
        mark: Number of lines whose digest is kept in `marked`.
        columns: How its columns become fields of tasks.

    Raises:
        ConfigurationError: While iterating, if the file cannot be read as a whole, or its columns do not
            describe tasks.
    """

    def __init__(self, source: BinaryIO, name: str, *, mark: int = 0, columns: Columns = TASKS) -> None:
        self.name = name
        self.lines = 0
        """Lines read so far, including those of the current task."""
        self.bytes = 0
        self.marked: bytes | None = None
        """Digest of the first ``mark`` lines. `None` means there are fewer."""
        self._source = source
        self._mark = mark
        self._columns = columns
        self._digest = hashlib.sha256()

    def digest(self) -> bytes:
        """Return the SHA-256 of the lines read so far."""
        return self._digest.digest()

    def __iter__(self) -> Iterator[NewTask | RejectedRow]:
        match _format(self.name):
            case "parquet":
                return self._parquet()
            case "csv":
                return self._csv()
        return self._json_lines()

    def _json_lines(self) -> Iterator[NewTask | RejectedRow]:
        objects, seen = False, set[str]()
        for line, _ in self._lines():
            if line is None:
                yield self._bad(f"longer than {LINE_LIMIT_BYTES:,} bytes")
                continue
            try:
                # Files that begin with a byte order mark may have been concatenated.
                if text := utf8(line).strip().removeprefix(_BOM):
                    value = parse(text)
                    if isinstance(value, dict):
                        objects, seen = True, seen | (value.keys() & self._columns.to.keys())
                    yield task_of(self._columns.fields_of(value))
            except ValueError as error:
                yield self._bad(str(error))
        if objects:
            self._columns.refuse_missing(seen, self.name)

    def _csv(self) -> Iterator[NewTask | RejectedRow]:
        rows = records(self._lines(), LINE_LIMIT_BYTES)
        header, delimiter = self._header(rows)
        if not header:
            return
        targets = self._columns.targets([column for column in header if column], self.name)
        named = iter(targets)
        # A first column without a name is the index that pandas writes.
        places = [next(named) if column else None for column in header]
        for record in rows:
            first = self.lines - record.lines + 1
            try:
                if cells := record.cells(first, delimiter):
                    if [cell.strip() for cell in cells] == header:
                        raise ValueError("is the header once more")
                    row = _values(header, places, cells)
                    yield task_of(self._columns.fields(places, row))
            except ValueError as error:
                yield RejectedRow(self.name, first, str(error))

    def _header(self, rows: Iterator[Record]) -> tuple[list[str], str]:
        """Return the names of the columns and the delimiter. An empty file has no names."""
        delimiter: str | None = None
        for record in rows:
            try:
                text = record.text(self.lines - record.lines + 1).removeprefix(_BOM)
                if delimiter is None and (delimiter := named_delimiter(text)):
                    continue
                delimiter = delimiter or delimiter_of(text)
                if not is_blank(text, delimiter):
                    header = [cell.strip() for cell in split(text, delimiter)]
                    while not header[-1]:
                        header.pop()
                    return header, delimiter
            except ValueError as error:
                raise ConfigurationError(
                    f"the header of {self.name} cannot be read: {error}", "write its columns' names"
                ) from None
        return [], ","

    def _parquet(self) -> Iterator[NewTask | RejectedRow]:
        from organism_flows.blocks.queue.files.parquet import rows  # pyarrow is slow to import

        for content, targets, row in rows(self._source, self.name, self._columns):
            self._digest.update(content + b"\n")
            self._count(len(content))
            try:
                if len(content) > LINE_LIMIT_BYTES:
                    raise ValueError(f"longer than {LINE_LIMIT_BYTES:,} bytes")
                yield task_of(self._columns.fields(targets, row))
            except ValueError as error:
                yield self._bad(str(error))

    def _lines(self) -> Iterator[Line]:
        """Yield the lines of the file, unparsed."""
        try:
            source = text_stream(self._source, self.name)
            while line := source.readline(LINE_LIMIT_BYTES):
                size, whole, quotes = len(line), line, line.count(b'"')
                # A line that is too long is never kept in memory as a whole.
                while not line.endswith(b"\n") and len(line) == LINE_LIMIT_BYTES:
                    self._digest.update(line)
                    line = source.readline(LINE_LIMIT_BYTES)
                    size += len(line)
                    quotes += line.count(b'"')
                self._digest.update(line.rstrip(b"\r\n") + b"\n")
                self._count(size)
                yield whole if size <= LINE_LIMIT_BYTES else None, quotes % 2 == 1
        except OSError as error:
            # This also catches a compressed file that is cut off.
            raise broken(self.name, error, self.lines) from None

    def _count(self, size: int) -> None:
        self.lines += 1
        self.bytes += size
        if self.lines == self._mark:
            self.marked = self.digest()

    def _bad(self, why: str) -> RejectedRow:
        return RejectedRow(self.name, self.lines, why)


def is_parquet(name: str) -> bool:
    """Return True if a file of this name is a Parquet file."""
    return _format(name) == "parquet"


def _format(name: str) -> str:
    path = Path(name)
    compressed = path.suffix.lower() in COMPRESSED
    suffix = Path(path.stem).suffix.lower() if compressed else path.suffix.lower()
    if suffix in PARQUET and compressed:
        raise ConfigurationError(
            f"{name} is Parquet inside a compressed file", "decompress it: Parquet is compressed by itself"
        )
    return "parquet" if suffix in PARQUET else "csv" if suffix in CSV else "json"


def _values(header: list[str], targets: list[str | None], cells: list[str]) -> list[str | None]:
    """Return the values of the cells. An empty cell is None, unless it is one of the params.

    Raises:
        ValueError: There are too few cells, or some without a column.
    """
    if len(cells) < len(header) or any(cells[len(header) :]):
        raise ValueError(f"has {len(cells)} values for {len(header)} columns")
    values: list[str | None] = []
    for number, (column, target, cell) in enumerate(zip(header, targets, cells, strict=False)):
        if cell and not column and number:
            raise ValueError(f"has a value in column {number + 1}, which has no name")
        values.append(cell if cell or (target or "").startswith(PARAM) else None)
    return values


@dataclass(slots=True)
class FileCheck:
    """Count of the tasks and the bad lines of some files."""

    tasks: int = 0
    bad: int = 0
    first_bad: list[RejectedRow] = field(default_factory=list)
    """The first bad lines, in order."""

    def count(self, found: NewTask | RejectedRow) -> None:
        """Add one line to the count."""
        if isinstance(found, NewTask):
            self.tasks += 1
            return
        self.bad += 1
        if len(self.first_bad) < BAD_LINES_KEPT:
            self.first_bad.append(found)

    def refuse_bad(self, what: str, lines: Iterable[str] | None = None, *, shown: int = 5) -> None:
        """Refuse all files if a line is bad.

        Args:
            what: Name of the files.
            lines: Descriptions of the bad lines. `None` means their place in the file and the reason.
            shown: Most bad lines to name.

        Raises:
            RejectedRows: A line is bad. Names the first lines and counts the others.
        """
        if not self.bad:
            return
        named = list(lines or map(str, self.first_bad))[:shown]
        more = f" (and {self.bad - len(named)} more)" if self.bad > len(named) else ""
        refusal = RejectedRows(
            f"{what}: {self.bad} of {self.bad + self.tasks} lines are bad, nothing was submitted: "
            f"{'; '.join(named)}{more}",
            "correct them and submit the file again",
        )
        refusal.first = [str(bad) for bad in self.first_bad]
        raise refusal


def matching(pattern: str) -> list[Path]:
    """Return the files that match a name or a pattern such as ``data/**/*.jsonl``, in order.

    Raises:
        ConfigurationError: No file matches.
    """
    found = sorted(glob.glob(pattern, recursive=True)) if not Path(pattern).exists() else [pattern]
    paths = [path for path in map(Path, found) if not path.is_dir()]
    if not paths:
        raise ConfigurationError(
            f"no file fits {pattern}", "name files that are there, on the machine that reads"
        )
    return paths


def open_file(path: Path) -> BinaryIO:
    """Return the open file.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path | str, error: OSError) -> ConfigurationError:
    """Return the one line for a file that cannot be read."""
    return ConfigurationError(f"cannot read {path}: {error.strerror}", "name a readable file")
