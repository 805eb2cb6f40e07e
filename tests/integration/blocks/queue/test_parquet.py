"""Parquet files of tasks: the same tasks as JSON lines and CSV give, and every row that is none is named."""

from __future__ import annotations

import csv
import decimal
import io
import json
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.files.reader import RejectedRow, TaskFileReader
from tests.support.sql import pool_of

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[4]


def parquet(table: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), sink, **options)
    return sink.getvalue()


def read(content: bytes, name: str = "f.parquet") -> list[NewTask | RejectedRow]:
    return list(TaskFileReader(io.BytesIO(content), name))


def params_of(values: Any, kind: Any = None) -> list[Any]:
    """What params a column of them gives, or why none."""
    column = pa.array(values, type=kind)
    found = read(parquet({"type": ["t"] * len(column), "params.x": column}))
    return [task.params["x"] if isinstance(task, NewTask) else task.why for task in found]


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
keys = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=5)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)
tasks = st.fixed_dictionaries(
    {"type": words.map(lambda word: f"t{word}"), "params": st.dictionaries(keys, values, max_size=3)},
    optional={
        "description": words.filter(bool),
        "domain": words.filter(bool),
        "priority": st.integers(-5, 5),
        "drift_score": st.floats(0, 1),
        "max_attempts": st.integers(1, 9),
        "timeout_s": st.floats(0.5, 100),
        "run_after": st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(
            lambda at: at.replace(tzinfo=UTC)
        ),
        "dedup_key": keys,
        "id": st.uuids(),
        "run_immediately": st.booleans(),
    },
)


@given(st.lists(tasks, min_size=1, max_size=6), st.integers(1, 3))
def test_the_same_tasks_as_json_lines_csv_and_parquet_are_the_same(
    said: list[dict[str, Any]], group: int
) -> None:
    lines = "".join(json.dumps(task, default=str) + "\n" for task in said)
    expected = read(lines.encode(), "f.jsonl")
    columns = sorted({column for task in said for column in task})
    flat = [{**task, "params": json.dumps(task["params"])} for task in said]
    sheet = io.StringIO()
    table = csv.DictWriter(sheet, columns)
    table.writeheader()
    table.writerows(flat)
    assert read(sheet.getvalue().encode(), "f.csv") == expected
    rows = [{**task, "id": str(task["id"])} if "id" in task else task for task in flat]
    whole = pa.table({column: [row.get(column) for row in rows] for column in columns})
    assert read(parquet(whole, row_group_size=group)) == expected
    assert all(isinstance(task, NewTask) for task in expected)


def test_params_are_a_struct_a_map_json_text_and_columns() -> None:
    for column in (
        pa.array([{"n": 1, "to": {"city": "Köln"}, "tags": ["a"]}]),
        pa.array(['{"n": 1, "to": {"city": "Köln"}, "tags": ["a"]}']),
    ):
        [task] = read(parquet({"type": ["t"], "params": column, "params.more": ["x"]}))
        assert isinstance(task, NewTask)
        assert task.params == {"n": 1, "to": {"city": "Köln"}, "tags": ["a"], "more": "x"}
    column = pa.array([[("a", 1), ("b", None)], None], type=pa.map_(pa.string(), pa.int64()))
    first, second = read(parquet({"type": ["t", "t"], "params": column}))
    assert isinstance(first, NewTask)
    assert isinstance(second, NewTask)
    assert (first.params, second.params) == ({"a": 1, "b": None}, {})


def test_what_a_column_can_hold_becomes_what_json_can_say() -> None:
    assert params_of([NOON, None], pa.timestamp("us", "UTC")) == ["2026-01-02T12:00:00+00:00", None]
    assert params_of([NOON], pa.timestamp("ns", "UTC")) == ["2026-01-02T12:00:00+00:00"]
    assert params_of([NOON.replace(tzinfo=None)], pa.timestamp("ms")) == ["2026-01-02T12:00:00"]
    assert params_of([date(2026, 1, 2)]) == ["2026-01-02"]
    assert params_of([time(1, 2, 3)]) == ["01:02:03"]
    assert params_of([decimal.Decimal("12.50")]) == ["12.50"]
    assert params_of([decimal.Decimal(10**30)], pa.decimal128(38, 0)) == [10**30]
    assert params_of([2**64 - 1], pa.uint64()) == [2**64 - 1]
    assert params_of(pa.array(["a", "b", "a"]).dictionary_encode()) == ["a", "b", "a"]
    assert params_of([1.5], pa.float16()) == [1.5]
    assert params_of([[1, None], []]) == [[1, None], []]


@pytest.mark.parametrize(
    ("bad", "good", "kind", "why"),
    [
        ([float("nan")], [1.0], pa.list_(pa.float64()), "NaN"),
        (float("inf"), 1.0, pa.float32(), "Infinity"),
        ("a\0b", "ab", pa.string(), "NUL"),
        (["a\0b"], ["ab"], pa.list_(pa.string()), "NUL"),
        (1, 1000, pa.timestamp("ns"), "safely convert"),
        (2**62, 0, pa.timestamp("us"), "out of range"),
        ([("a", 1), ("a", 2)], [("a", 1)], pa.map_(pa.string(), pa.int64()), "a"),
        ([(1, 1)], [], pa.map_(pa.int64(), pa.int64()), "keys are no text"),
    ],
)
def test_a_cell_that_is_no_value_makes_its_row_bad_and_no_other(
    bad: Any, good: Any, kind: Any, why: str
) -> None:
    content = parquet({"type": ["t"] * 3, "params.x": pa.array([good, bad, good], type=kind)})
    first, second, third = read(content)
    assert isinstance(first, NewTask)
    assert isinstance(second, RejectedRow)
    assert isinstance(third, NewTask)
    assert str(second).startswith("f.parquet row 2: params")
    assert why in second.why


def test_what_spark_and_pandas_write_is_read_as_it_was_meant() -> None:
    # INT96 holds years that nanoseconds in 64 bits do not: pyarrow's default gives 1816 for 2400.
    far = datetime(2400, 1, 2, 3, 4, 5, 6)
    content = parquet(
        {"type": ["t"], "params.x": pa.array([far], pa.timestamp("us"))}, use_deprecated_int96_timestamps=True
    )
    [task] = read(content)
    assert isinstance(task, NewTask)
    assert task.params["x"] == "2400-01-02T03:04:05.000006"
    table = {"type": ["t", "t"], "priority": [1.0, None], "__index_level_0__": [5, 9]}
    first, second = read(parquet(table))
    assert isinstance(first, NewTask)
    assert isinstance(second, NewTask)
    assert (first.priority, second.priority) == (1, 0)


def test_nan_is_how_some_write_null() -> None:
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        assert params_of([1.5, float("nan"), None], kind) == [1.5, None, None]
    [task] = read(parquet({"type": ["t"], "priority": [float("nan")], "timeout_s": [float("nan")]}))
    assert task == NewTask(type="t")


def test_a_page_whose_checksum_is_wrong_is_refused() -> None:
    table = {"type": ["t"], "params.x": ["a" * 50]}
    options = {"use_dictionary": False, "write_statistics": False, "compression": "none"}
    content = bytearray(parquet(table, write_page_checksum=True, **options))
    content[content.index(b"a" * 50)] = ord("b")
    with pytest.raises(ConfigurationError, match=r"cannot read f\.parquet as Parquet.*CRC"):
        read(bytes(content))


def test_rows_without_a_task_are_named() -> None:
    text = pa.array([b"ok", b"\xff"]).cast(pa.binary()).view(pa.string())
    assert "utf-8" in str(read(parquet({"type": text}))[1])
    for column, what in (
        ([b"t"], "type: binary"),
        ([None], "type is missing"),
        ([timedelta(seconds=1)], "type: a duration"),
    ):
        [found] = read(parquet({"type": pa.array(column)}))
        assert str(found).startswith(f"f.parquet row 1: {what}")
    for params, what in (
        (["{"], "params: not JSON"),
        (["[]"], "params: Input should be"),
        ([[1]], "params: Input"),
    ):
        [found] = read(parquet({"type": ["t"], "params": params}))
        assert what in str(found)
    [found] = read(parquet({"type": ["t"], "timeout_s": [float("inf")]}))
    assert "row 1: timeout_s" in str(found)


def test_moments_decimals_and_ids_are_taken_by_fields() -> None:
    task_id = uuid.uuid4()
    table = {
        "type": ["t"],
        "run_after": pa.array([NOON], pa.timestamp("ms", "Europe/Berlin")),
        "timeout_s": [decimal.Decimal("2.5")],
        "priority": [3.0],
        "id": pa.array([task_id.bytes], pa.uuid()),
    }
    [task] = read(parquet(table))
    assert isinstance(task, NewTask)
    assert (task.run_after, task.timeout_s, task.priority, task.id) == (NOON, 2.5, 3, task_id)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read f.parquet as Parquet"),
        (b"PAR1 and no more", "cannot read f.parquet as Parquet"),
        (parquet({"type": ["t"], "colour": ["red"]}), "unknown column 'colour'"),
        (parquet({"params": ["{}"]}), "has no column 'type'"),
        (parquet(pa.table([["t"], ["t"]], ["type", "type"])), "has 'type' twice"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        read(content)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_broken_inside_is_refused() -> None:
    content = bytearray(parquet({"type": [f"t{n}" for n in range(5000)]}, compression="zstd"))
    content[2000:2400] = b"\xff" * 400
    with pytest.raises(ConfigurationError, match=r"cannot read f\.parquet as Parquet"):
        read(bytes(content))


@pytest.mark.anyio
async def test_rows_are_loaded_once_from_where_a_load_was_killed_and_as_they_are_added(
    queue: Queue, tmp_path: Path
) -> None:
    file = tmp_path / "f.parquet"

    def write(numbers: range, **options: Any) -> None:
        pq.write_table(pa.table({"type": ["t"] * len(numbers), "params.n": list(numbers)}), file, **options)

    async def loaded() -> list[int]:
        rows = await pool_of(queue).fetch("SELECT (params->>'n')::int AS n FROM tasks ORDER BY 1")
        return [row["n"] for row in rows]

    def stop(_: object) -> None:
        raise RuntimeError("in the middle")

    write(range(25), row_group_size=7)
    with pytest.raises(RuntimeError, match="in the middle"):
        await queue.producer.load_files([file], part=10, on_part=stop)
    done = await queue.producer.load_files([file], part=10)
    assert (done.added, done.earlier) == (15, 10)
    # Written again with more rows, in other groups and another compression: its rows are what counts.
    write(range(30), row_group_size=11, compression="zstd")
    done = await queue.producer.load_files([file])
    assert (done.added, done.earlier) == (5, 25)
    assert await loaded() == list(range(30))
    write(range(1, 31))
    with pytest.raises(ConfigurationError, match="first 30 lines were loaded earlier and have changed"):
        await queue.producer.load_files([file])


def test_pyarrow_is_not_imported_before_a_file_asks_for_it() -> None:
    modules = ("blocks.queue", "flows.submit", "deployments.cli.main")
    said = f"import sys, {', '.join(f'organism_flows.{m}' for m in modules)}; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip().endswith("False"), done.stderr


@pytest.mark.soak
def test_a_million_rows_are_read_in_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "f.parquet"
    part = pa.table({"type": ["t"] * 100_000, "params.text": [f"{n:>60}" for n in range(100_000)]})
    with pq.ParquetWriter(file, part.schema) as writer:
        writer.write_table(pa.concat_tables([part] * 10), row_group_size=1_000_000)
    said = (
        "import re, sys\nfrom organism_flows.blocks.queue.files.reader import TaskFileReader\n"
        "import organism_flows.blocks.queue.files.parquet\n"
        "status = lambda: open('/proc/self/status').read()\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status())[1])\nbefore = peak()\n"
        "lines = TaskFileReader(open(sys.argv[1], 'rb'), sys.argv[1])\nfor _ in lines: pass\n"
        "print(lines.lines, peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", said, file], capture_output=True, text=True, cwd=ROOT, timeout=400
    )
    rows, grown_kb = map(int, done.stdout.split())
    print(f"{rows} rows, {grown_kb / 1024:.0f} MB more")
    assert rows == 1_000_000
    assert grown_kb < 150_000
