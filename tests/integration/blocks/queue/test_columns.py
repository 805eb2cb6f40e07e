"""Files with columns of their own: params of one type, or fields by a mapping."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.files.columns import Columns
from organism_flows.blocks.queue.files.reader import RejectedRow, TaskFileReader

ROWS = [{"id": 1, "text": "one"}, {"id": 2, "text": "zwei"}]


def content(name: str, rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    if name.endswith(".csv"):
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        return "\n".join(lines).encode()
    return "\n".join(json.dumps(row) for row in rows).encode()


def read(
    name: str, columns: Columns, rows: list[dict[str, Any]] | None = None
) -> list[NewTask | RejectedRow]:
    return list(TaskFileReader(io.BytesIO(content(name, rows or ROWS)), name, columns=columns))


def tasks(name: str, columns: Columns, rows: list[dict[str, Any]] | None = None) -> list[NewTask]:
    found = read(name, columns, rows)
    assert not [str(line) for line in found if isinstance(line, RejectedRow)]
    return [task for task in found if isinstance(task, NewTask)]


EVERY_KIND = pytest.mark.parametrize("name", ["f.parquet", "f.csv", "f.jsonl"])


@EVERY_KIND
def test_columns_are_params_of_the_type_given(name: str) -> None:
    found = tasks(name, Columns("embed"))
    assert [task.type for task in found] == ["embed", "embed"]
    rows = [{"id": str(row["id"]), "text": row["text"]} for row in ROWS] if name == "f.csv" else ROWS
    assert [task.params for task in found] == rows


@EVERY_KIND
def test_columns_are_mapped_to_fields_and_params_or_left_out(name: str) -> None:
    rows = [{"key": "k1", "text": "one", "note": "x", "rank": 3}]
    columns = Columns.of(
        "embed",
        ["key=dedup_key", "text=params.input", "note=", "rank=priority"],
        {"domain": "d", "params": {"model": "m"}},
    )
    [task] = tasks(name, columns, rows)
    assert (task.type, task.dedup_key, task.priority, task.domain) == ("embed", "k1", 3, "d")
    assert task.params == {"model": "m", "input": "one"}


@EVERY_KIND
def test_a_type_may_be_a_column_under_another_name(name: str) -> None:
    rows = [{"kind": "a", "n": 1}, {"kind": "b", "n": 2}]
    found = tasks(name, Columns.of(None, ["kind=type", "n=params.n"]), rows)
    assert [task.type for task in found] == ["a", "b"]


@EVERY_KIND
@pytest.mark.parametrize(
    ("mapped", "rows", "what"),
    [
        (["txet=params.input"], ROWS, "no column 'txet'"),
        ([], [{"type": "a", "text": "x"}], "'type'"),
        (["id=params.text"], ROWS, "twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    name: str, mapped: list[str], rows: list[dict[str, Any]], what: str
) -> None:
    try:
        refused = "; ".join(str(line) for line in read(name, Columns.of("embed", mapped), rows))
    except ConfigurationError as error:
        refused = str(error)
    assert (what in refused) or ("f.jsonl:1" in refused)


@pytest.mark.parametrize("mapped", [["text"], ["=params.x"], ["a=params.x", "a=params.y"], ["a=colour"]])
def test_a_mapping_that_is_none_is_refused(mapped: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"maps no column|no task has"):
        Columns.of("embed", mapped)


def test_the_index_of_pandas_is_no_column() -> None:
    rows = [{"text": "one", "__index_level_0__": 7}]
    assert [task.params for task in tasks("f.parquet", Columns("embed"), rows)] == [{"text": "one"}]
    assert len(tasks("f.parquet", Columns(), [{"type": "t", "__index_level_0__": 7}])) == 1


def test_null_says_nothing_in_a_field() -> None:
    line = {"type": "t", "priority": None, "params": None, "run_immediately": None, "drift_score": None}
    assert tasks("f.jsonl", Columns(), [line]) == [NewTask(type="t")]
    [found] = read("f.jsonl", Columns(), [{"type": "t", "parms": None}])
    assert "parms" in str(found), "a name that no field has is still wrong"


@pytest.mark.anyio
async def test_a_file_is_loaded_once_for_each_type(queue: Queue, tmp_path: Path) -> None:
    file = tmp_path / "f.parquet"
    file.write_bytes(content(file.name, ROWS))
    for kind in ("embed", "classify"):
        for added, earlier in ((2, 0), (0, 2)):
            done = await queue.producer.load_files([file], columns=Columns(kind))
            assert (done.added, done.earlier) == (added, earlier)
