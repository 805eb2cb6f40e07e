"""Exports: every task that fits, whatever is in it, in every format."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

import pyarrow.parquet as pq
import pytest

from organism_flows.blocks.queue import NewTask, Queue, TaskFilter
from organism_flows.blocks.queue.files.writers import EXPORT_COLUMNS, FORMATS, Format, task_writer
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio
csv.field_size_limit(2**31 - 1)


class Pipe(io.RawIOBase):
    """A sink that has no position, as a pipe has none."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += bytes(data)
        return len(data)


async def exported(queue: Queue, format: Format, filter: TaskFilter, **options: Any) -> bytes:
    sink = Pipe()
    writer = task_writer(format, cast("BinaryIO", sink))
    async for page in queue.reader.export(filter, **options):
        writer.write(page)
    writer.close()
    return sink.content


def rows_of(format: str, content: bytes) -> list[dict[str, Any]]:
    if format == "parquet":
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
        return rows
    if format == "csv":
        return [*csv.DictReader(io.StringIO(content.decode(), newline=""))]
    return [json.loads(line) for line in content.splitlines()]


@pytest.mark.parametrize("format", FORMATS)
async def test_every_task_is_exported_once_whatever_the_pages(queue: Queue, format: Format) -> None:
    ids = await queue.submit([NewTask(type="t", params={"n": n, "text": 'é,"\r\n'}) for n in range(7)])
    batch = await claim(queue, limit=3)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result='{"y": [1]}'))
    for page in (1, 3, 7, 100):
        rows = rows_of(format, await exported(queue, format, TaskFilter(), page=page))
        assert [row["id"] for row in rows] == sorted(map(str, ids), reverse=True)
        assert [*rows[0]] == [*EXPORT_COLUMNS]
        plain = [row if format == "jsonl" else row | {"params": json.loads(row["params"])} for row in rows]
        assert sorted(row["params"]["n"] for row in plain) == [*range(7)]
        assert {row["params"]["text"] for row in plain} == {'é,"\r\n'}
        results = [row["result"] for row in rows if row["result"]]
        assert len(results) == 3
        assert (results[0] if format == "jsonl" else json.loads(results[0])) == {"y": [1]}


async def test_large_values_make_small_pages(queue: Queue) -> None:
    # Few bytes in storage would say nothing: Postgres compresses what repeats.
    text = "".join(chr(0x4E00 + n * 7919 % 20000) for n in range(300))
    await queue.submit([NewTask(type="t", params={"text": text}) for _ in range(10)])
    sizes = [len(page) async for page in queue.reader.export(TaskFilter(), page_bytes=1000)]
    assert sum(sizes) == 10
    assert max(sizes) <= 2


async def test_filters_choose_and_count(queue: Queue) -> None:
    await queue.submit([NewTask(type=kind, domain="d") for kind in ("a", "a", "b")])
    batch = await claim(queue, limit=3)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error="no such host"))
    await queue.submit([NewTask(type="a")])
    for chosen, count in (
        (TaskFilter(), 4),
        (TaskFilter(type="a"), 3),
        (TaskFilter(type="a", status=["failed"]), 2),
        (TaskFilter(status=["failed", "queued"]), 4),
        (TaskFilter(domain="d", error="SUCH HOST"), 3),
        (TaskFilter(created_since=datetime(2000, 1, 1, tzinfo=UTC)), 4),
        (TaskFilter(created_until=datetime(2000, 1, 1, tzinfo=UTC)), 0),
    ):
        assert len(rows_of("jsonl", await exported(queue, "jsonl", chosen))) == count
        assert sum((await queue.reader.counts_of(chosen)).values()) == count


@pytest.mark.parametrize("format", FORMATS)
async def test_no_row_stops_an_export(queue: Queue, format: Format) -> None:
    # As in a table that is older than its constraints and the rules of its triggers.
    for row in await pool_of(queue).fetch(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'tasks'::regclass AND contype = 'c'"
    ):
        await pool_of(queue).execute(f'ALTER TABLE tasks DROP CONSTRAINT "{row["conname"]}"')
    await pool_of(queue).execute("ALTER TABLE tasks DISABLE TRIGGER USER")
    await pool_of(queue).execute(
        """
        INSERT INTO tasks (type, params, created_at, run_after, drift_score, error) VALUES
            ('early', '{}', '4000-01-01 BC', 'infinity', 0, NULL),
            ('late', '{}', '294000-01-01', '-infinity', 'NaN', NULL),
            ('deep', (repeat('[', 2000) || repeat(']', 2000))::jsonb, DEFAULT, DEFAULT, 'Infinity', NULL),
            ('long', jsonb_build_object('n', repeat('9', 6000)::numeric), DEFAULT, DEFAULT, 0, NULL),
            ('=1+1', '{}', DEFAULT, DEFAULT, 0, E'\\x1b[31m\\r\\n"')
        """
    )
    content = await exported(queue, format, TaskFilter())
    if format == "jsonl":
        # The standard library reads neither such nesting nor such numbers.
        assert content.count(b"\n") == 5
        assert b"[" * 2000 in content
        assert b"9" * 6000 in content
        return
    rows = {row["type"]: row for row in rows_of(format, content)}
    assert {*rows} == {"early", "late", "deep", "long", "=1+1"}
    assert rows["long"]["params"] == f'{{"n": {"9" * 6000}}}'
    assert rows["=1+1"]["error"] == '\x1b[31m\r\n"'
    assert rows["early"]["run_after"] == ("infinity" if format == "csv" else None)


@pytest.mark.parametrize("format", FORMATS)
async def test_without_a_task_a_file_is_whole_all_the_same(queue: Queue, format: Format) -> None:
    assert rows_of(format, await exported(queue, format, TaskFilter())) == []
