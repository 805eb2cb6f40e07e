"""Loading files: each line once, whatever is killed, called twice or done at the same time."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import NewTask, Queue
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.queue.sessions import blocked_on_a_row, open_transaction
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[4]


def write(path: Path, numbers: Sequence[int], *, kind: str = "t") -> Path:
    with path.open("a") as file:
        file.writelines(json.dumps({"type": kind, "params": {"n": n}}) + "\n" for n in numbers)
    return path


async def loaded(queue: Queue) -> list[int]:
    """The numbers of all tasks, in order."""
    rows = await pool_of(queue).fetch("SELECT (params->>'n')::int AS n FROM tasks ORDER BY 1")
    return [row["n"] for row in rows]


async def test_a_file_is_loaded_once_and_grows(queue: Queue, tmp_path: Path) -> None:
    file = write(tmp_path / "f.jsonl", range(25))
    done = await queue.producer.load_files([file], part=10)
    assert (done.added, done.earlier, done.parts) == (25, 0, 3)
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
    await pool_of(queue).execute("DELETE FROM tasks WHERE (params->>'n')::int < 5")  # as pruning does
    done = await queue.producer.load_files([file], part=10)
    assert (done.added, done.earlier, done.parts) == (0, 25, 0), "whatever has become of its tasks"
    write(file, range(25, 32))
    done = await queue.producer.load_files([file, file], part=10)
    assert (done.added, done.earlier) == (7, 25)
    assert await loaded(queue) == list(range(5, 32))


async def test_a_file_that_changed_where_it_was_loaded_is_refused_until_asked_for(
    queue: Queue, tmp_path: Path
) -> None:
    file = write(tmp_path / "f.jsonl", range(5))
    await queue.producer.load_files([file])
    file.write_text(file.read_text().replace('"n": 0', '"n": 9'))
    with pytest.raises(ConfigurationError, match="first 5 lines were loaded earlier and have changed"):
        await queue.producer.load_files([file])
    assert await loaded(queue) == list(range(5))
    assert (await queue.producer.load_files([file], again=True)).added == 5
    assert (await queue.producer.load_files([file])).added == 0
    file.write_text("")
    with pytest.raises(ConfigurationError, match="have changed since"):
        await queue.producer.load_files([file])


async def test_strictly_nothing_is_loaded_if_a_line_of_any_file_is_bad(queue: Queue, tmp_path: Path) -> None:
    good = write(tmp_path / "a.jsonl", range(30))
    bad = write(tmp_path / "b.jsonl", range(30, 33))
    with bad.open("a") as file:
        file.write("{\n")
    write(bad, [33])
    with pytest.raises(ConfigurationError, match=r"2 files: 1 of 35 lines are bad.*b\.jsonl:4: not JSON"):
        await queue.producer.load_files([good, bad], part=10)
    assert await loaded(queue) == []
    done = await queue.producer.load_files([good, bad], part=10, strict=False)
    assert (done.added, done.checked.bad, str(done.checked.first_bad[0]).split(":")[1]) == (34, 1, "4")
    assert await loaded(queue) == list(range(34))
    assert (await queue.producer.load_files([good, bad], part=10, strict=False)).added == 0


async def test_what_is_there_under_its_key_or_id_is_counted_and_left(queue: Queue, tmp_path: Path) -> None:
    [there] = await queue.submit([NewTask(type="t", dedup_key="k", params={"n": 0})])
    file = write(tmp_path / "f.jsonl", range(1, 3))
    with file.open("a") as lines:
        lines.write('{"type": "t", "dedup_key": "k"}\n' + f'{{"type": "t", "id": "{there}"}}\n')
    done = await queue.producer.load_files([file])
    assert (done.added, done.duplicates) == (2, 2)
    assert await loaded(queue) == [0, 1, 2]
    assert (await queue.producer.load_files([file])).added == 0


async def test_a_csv_file_is_loaded_from_where_it_was(queue: Queue, tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text("type,params\n" + "".join(f't,"{{""n"":\n{n}}}"\n' for n in range(5)))
    stopped = RuntimeError("in the middle")

    def stop(_: object) -> None:
        raise stopped

    with pytest.raises(RuntimeError, match="in the middle"):
        await queue.producer.load_files([file], part=2, on_part=stop)
    assert await loaded(queue) == [0, 1]
    done = await queue.producer.load_files([file], part=2)
    assert (done.added, done.earlier) == (3, 2)
    assert await loaded(queue) == list(range(5))


async def test_two_loads_of_one_file_at_once_load_it_once(
    queue: Queue, database: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "f.jsonl", range(200))
    async with Queue(database) as second:
        loads = [q.producer.load_files([file], part=5) for q in (queue, second)]
        done = await asyncio.gather(*loads, return_exceptions=True)
    # One may have been told that the other is at it, however far that was.
    assert all("by another process" in str(d) for d in done if isinstance(d, BaseException))
    await queue.producer.load_files([file])
    assert await loaded(queue) == list(range(200))


# Killing it


@asynccontextmanager
async def loading_process(dsn: str, file: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "tests/support/queue/load_slowly.py"),
        dsn,
        str(file),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        await said(process, "ready")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def said(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 60)
    assert line.decode().strip() == word


def go_on(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def test_killed_between_two_parts_the_rest_is_loaded_once(
    queue: Queue, database: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "f.jsonl", range(45))
    async with loading_process(database, file) as process:
        for _ in range(2):
            go_on(process)
            await said(process, "part")
        process.kill()
        await process.wait()
    assert await loaded(queue) == list(range(20))
    done = await queue.producer.load_files([file], part=10)
    assert (done.added, done.earlier) == (25, 20)
    assert await loaded(queue) == list(range(45))


async def test_killed_within_a_part_none_of_it_is_loaded(queue: Queue, database: str, tmp_path: Path) -> None:
    file = write(tmp_path / "f.jsonl", range(45))
    async with loading_process(database, file) as process:
        go_on(process)
        await said(process, "part")
        async with open_transaction(queue) as blocking:
            # The note of the part is written by then, and its tasks are not.
            await blocking.execute("LOCK TABLE tasks IN SHARE MODE")
            go_on(process)
            await blocked_on_a_row(queue)
            process.kill()
            await process.wait()
    done = await queue.producer.load_files([file], part=10)
    assert (done.added, done.earlier) == (35, 10)
    assert await loaded(queue) == list(range(45))
