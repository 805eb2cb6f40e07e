"""Writers of exported tasks as JSON lines, CSV and Parquet, page by page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from typing import Any, BinaryIO, Literal, Protocol, TypeAlias

import orjson

from organism_flows.blocks.queue.models.operations import Exported

Format: TypeAlias = Literal["jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = ("jsonl", "csv", "parquet")
EXPORT_COLUMNS = {
    "id": "text",
    "type": "text",
    "status": "text",
    "description": "text",
    "domain": "text",
    "key": "text",
    "drift_score": "real",
    "priority": "integer",
    "cost": "real",
    "attempts": "integer",
    "max_attempts": "integer",
    "dedup_key": "text",
    "timeout_s": "real",
    "run_after": "moment",
    "expires_at": "moment",
    "params": "json",
    "result": "json",
    "error": "text",
    "organ_id": "text",
    "path": "text",
    "elapsed_ms": "real",
    "timed_out": "integer",
    "lease_lost": "integer",
    "interrupted": "integer",
    "snoozed": "integer",
    "created_at": "moment",
    "updated_at": "moment",
    "finished_at": "moment",
}
"""Columns of an export, in order, and the kind of their values. `sql/export.sql` reads the same."""


class TaskWriter(Protocol):
    """Writes tasks to a stream of bytes, which it leaves open."""

    def write(self, page: Sequence[Exported]) -> None:
        """Write a page of tasks."""

    def close(self) -> None:
        """Write what belongs at the end. Without it the output is incomplete."""


def task_writer(format: Format, sink: BinaryIO) -> TaskWriter:
    """Return a writer of ``format`` to ``sink``, which need not be seekable."""
    if format == "parquet":
        return ParquetWriter(sink)
    return CsvWriter(sink) if format == "csv" else JsonLinesWriter(sink)


class JsonLinesWriter:
    """Writes one object a line. Params and results stay the JSON that they are."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink

    def write(self, page: Sequence[Exported]) -> None:
        for task in page:
            # Not parsed, so that numbers of any size and nesting of any depth are written unchanged.
            self._sink.write(orjson.dumps({name: _json(name, task[name]) for name in EXPORT_COLUMNS}) + b"\n")

    def close(self) -> None:
        """Do nothing: the output is complete after every page."""


def _json(name: str, value: Any) -> Any:
    return orjson.Fragment(value) if EXPORT_COLUMNS[name] == "json" and value is not None else value


class CsvWriter:
    """Writes a header and one row a task, in UTF-8. Params and results are JSON text, null is empty."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._put([[*EXPORT_COLUMNS]])

    def write(self, page: Sequence[Exported]) -> None:
        self._put([[task[name] for name in EXPORT_COLUMNS] for task in page])

    def _put(self, rows: list[list[Any]]) -> None:
        text = io.StringIO()
        # Lines end with CRLF, as RFC 4180 demands. With LF, Python 3.11 leaves a CR inside a cell unquoted.
        csv.writer(text).writerows(rows)
        self._sink.write(text.getvalue().encode())

    def close(self) -> None:
        """Do nothing: the output is complete after every page."""


class ParquetWriter:
    """Writes one row group a page. Params and results are JSON text, moments are timestamps in UTC.

    A moment outside the years 1 to 9999 becomes null: no reader in Python can hold it.
    """

    def __init__(self, sink: BinaryIO) -> None:
        import pyarrow as pa  # slow to import
        import pyarrow.parquet as pq

        kinds = {
            "text": pa.string(),
            "json": pa.string(),
            "integer": pa.int64(),
            "real": pa.float64(),
            "moment": pa.timestamp("us", "UTC"),
        }
        self._schema = pa.schema([(name, kinds[kind]) for name, kind in EXPORT_COLUMNS.items()])
        self._table = pa.Table
        self._writer = pq.ParquetWriter(_Positioned(sink), self._schema, compression="zstd")

    def write(self, page: Sequence[Exported]) -> None:
        rows = [{name: _value(name, task[name]) for name in EXPORT_COLUMNS} for task in page]
        self._writer.write_table(self._table.from_pylist(rows, self._schema))

    def close(self) -> None:
        self._writer.close()


class _Positioned:
    """A sink that counts the bytes written to it: pyarrow asks for the position, even in a pipe."""

    closed = False

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._position = 0

    def write(self, data: Any) -> int:
        self._position += len(data)
        # pyarrow closes a file that was dropped, and writes its end, when it frees the writer.
        if not self._sink.closed:
            self._sink.write(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        if not self._sink.closed:
            self._sink.flush()

    def close(self) -> None:
        self.flush()


def _value(name: str, value: Any) -> Any:
    if EXPORT_COLUMNS[name] != "moment" or value is None:
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None
