"""Rows of Parquet files as fields of tasks, in plain values as JSON lines would have them.

The file is read in batches, so that memory depends on the largest rows and not on the file. A cell that
cannot be a value of a task makes only its own row bad.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.files.columns import Columns

BATCH_ROWS = 1000
"""Most rows of a batch."""
BATCH_BYTES = 8_000_000
"""Most bytes of a batch, estimated from the row group with the largest average row."""
BUFFER_BYTES = 1 << 20
"""Bytes read ahead for each column. Without this limit, a column's whole part of a row group is read."""


def rows(
    source: BinaryIO, name: str, columns: Columns
) -> Iterator[tuple[bytes, list[str | None], tuple[Any, ...]]]:
    """Yield for each row what identifies its content, and its targets and cells for `Columns.fields`.

    Args:
        source: The file. The caller closes it.
        name: Name of the file.
        columns: How its columns become fields of tasks.

    Raises:
        ConfigurationError: The file is not Parquet, is broken, or its columns do not describe tasks.
    """
    try:
        # The source is the caller's to close.
        file = pq.ParquetFile(
            source,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            # In nanoseconds, the default, years after 2262 become other years.
            coerce_int96_timestamp_unit="us",
            page_checksum_verification=True,
        )
        targets = columns.targets(file.schema_arrow.names, name)
        for batch in file.iter_batches(batch_size=_batch_rows(file.metadata), use_threads=False):
            cells = [_cells(column) for column in batch.columns]
            for row in zip(*cells, strict=True):
                yield repr(row).encode("utf-8", "surrogatepass"), targets, row
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())[:200]
        raise ConfigurationError(f"cannot read {name} as Parquet: {why}", "write the file again") from None


def _batch_rows(metadata: Any) -> int:
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(largest, 1)))


def _cells(column: Any) -> list[Any]:
    """Return plain values, and a `ValueError` for each invalid one. NaN is None, as pandas means it."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        return [_plain(value) for value in column.to_pylist(maps_as_pydicts="strict")]
    except (ValueError, OverflowError, KeyError, pa.ArrowException):
        return [_cell(scalar) for scalar in column]


def _cell(scalar: Any) -> Any:
    try:
        return _plain(scalar.as_py(maps_as_pydicts="strict"))
    except (ValueError, OverflowError, KeyError, pa.ArrowException) as error:
        return ValueError(" ".join(str(error).split())[:200])


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON would have it. NaN in a list is left to callers that know the field's name.

    Raises:
        ValueError: JSON has no equivalent.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case dict():
            return {key if isinstance(key, str) else _key(key): _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case datetime.datetime() | datetime.date() | datetime.time():
            # Nanoseconds come as a class of pandas, if it is installed.
            if getattr(value, "nanosecond", 0):
                raise ValueError("a time finer than a microsecond: round it")
            return value.isoformat()
        case decimal.Decimal():
            if not value.is_finite():
                raise ValueError(f"{value} is no number of JSON")
            # A float would round it.
            return int(value) if value.as_tuple().exponent == 0 else str(value)
        case uuid.UUID():
            return str(value)
        case bytes():
            raise ValueError("binary: write text, for example base64")
        case datetime.timedelta():
            raise ValueError("a duration: write a number of seconds")
    raise ValueError(f"JSON has no type for a {type(value).__name__}")


def _key(key: Any) -> str:
    raise ValueError(f"a map whose keys are no text: {key!r:.40}")
