"""Rows of CSV files, strictly by RFC 4180: a row with wrong quotes is an error, never another row.

In a file that follows the RFC, quotes come in pairs. So a row ends with the first line after which their
number is even. A missing or extra quote cannot end a row elsewhere without an error.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

Line: TypeAlias = "tuple[bytes | None, bool]"
"""A line, or `None` if it is too long, and True if the number of its quotes is odd."""

DELIMITERS = (",", ";", "\t")
# The limit for a row also limits its cells. The library's own limit is 131,072.
csv.field_size_limit(2**31 - 1)
_SEP = re.compile(r"sep=(.)\s*", re.IGNORECASE)
"""The line before the header in which Excel names its delimiter."""


@dataclass(frozen=True, slots=True)
class Record:
    """The lines of one row."""

    content: bytes | None
    """Its bytes. `None` means it is longer than the limit."""
    lines: int
    closed: bool
    """False if the file ends within quotes."""
    limit: int

    def text(self, first: int) -> str:
        """Return the row as text.

        Args:
            first: Number of its first line.

        Raises:
            ValueError: The row is too long, ends within quotes, or is not UTF-8.
        """
        last = first + self.lines - 1
        among = f"; lines {first} to {last} are one row by its quotes" if self.lines > 1 else ""
        if not self.closed:
            raise ValueError(f"a quote is opened and not closed before the end of the file{among}")
        if self.content is None:
            raise ValueError(f"longer than {self.limit:,} bytes{among}")
        return utf8(self.content)

    def cells(self, first: int, delimiter: str) -> list[str]:
        """Return the cells of the row. Empty for a row without values.

        Args:
            first: Number of its first line.
            delimiter: Character that separates the cells.

        Raises:
            ValueError: The row is too long, ends within quotes, is not UTF-8, or has wrong quotes or line
                ends.
        """
        text = self.text(first)
        # Excel writes rows of empty cells.
        if is_blank(text, delimiter):
            return []
        return split(text, delimiter)


def records(lines: Iterable[Line], limit: int) -> Iterator[Record]:
    """Yield the rows of a file.

    Args:
        lines: Lines of the file, with their ends.
        limit: Longest row, in bytes. The content of a longer one is never kept in memory.
    """
    parts: list[bytes] = []
    count = size = 0
    fits, within_quotes = True, False
    for line, odd in lines:
        count += 1
        within_quotes ^= odd
        size += len(line or b"")
        fits = fits and line is not None and size <= limit
        if fits and line is not None:
            parts.append(line)
        else:
            parts.clear()
        if not within_quotes:
            yield Record(b"".join(parts) if fits else None, count, True, limit)
            parts.clear()
            count = size = 0
            fits = True
    if count:
        yield Record(None, count, False, limit)


def is_blank(text: str, delimiter: str) -> bool:
    """Return True if a row has no values: it is empty, or all its cells are empty and without quotes."""
    return not _without_end(text).strip(f"{delimiter} \t")


def utf8(content: bytes) -> str:
    """Return the text of ``content``.

    Raises:
        ValueError: It is not UTF-8. Names the first wrong byte.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise ValueError(
            f"not UTF-8: byte 0x{byte:02x} at position {error.start + 1}; save it as UTF-8"
        ) from None


def split(text: str, delimiter: str) -> list[str]:
    """Return the cells of one row.

    Raises:
        ValueError: Quotes or line ends are wrong.
    """
    bare = _without_end(text)
    if '"' not in bare:
        if "\r" in bare:
            raise ValueError("a carriage return outside quotes: end lines with LF or CRLF")
        return bare.split(delimiter)
    # `csv` accepts a quote inside a cell that does not begin with one as text, strict or not.
    if not _ROW[delimiter].fullmatch(bare):
        raise ValueError("quotes are wrong: put the whole cell in quotes, and double each quote in it")
    try:
        [cells] = csv.reader([bare], strict=True, delimiter=delimiter)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"not a row of CSV: {error}") from None
    return cells


def delimiter_of(header: str) -> str:
    """Return the first of `DELIMITERS` that the header has outside quotes, or the comma if it has none."""
    outside = re.sub(r'"[^"]*"', "", header)
    return next((delimiter for delimiter in DELIMITERS if delimiter in outside), ",")


def named_delimiter(header: str) -> str | None:
    """Return the delimiter that Excel's line ``sep=;`` names. `None` means it is another line."""
    found = _SEP.fullmatch(header.strip("\r\n"))
    return found[1] if found and found[1] in DELIMITERS else None


def _without_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _row(delimiter: str) -> re.Pattern[str]:
    # Possessive quantifiers, so that it takes linear time.
    cell = rf'(?:"(?:[^"]++|"")*+"|[^"\r\n{delimiter}]*+)'
    return re.compile(rf"{cell}(?:{delimiter}{cell})*+")


_ROW = {delimiter: _row(delimiter) for delimiter in DELIMITERS}
