"""Loading files of tasks, part by part, each line once: killed in the middle, it is only run again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.db.statements import statement
from organism_flows.blocks.queue.files.columns import TASKS, Columns
from organism_flows.blocks.queue.files.reader import FileCheck, TaskFileReader, open_file
from organism_flows.blocks.queue.models import NewTask
from organism_flows.blocks.queue.stores.export import Export
from organism_flows.blocks.queue.stores.reads import READ_TIMEOUT
from organism_flows.blocks.queue.stores.submission import LOADED_COLUMNS, SUBMIT_TIMEOUT, Submission, task_row

PART_TASKS = 5000
PART_BYTES = 16_000_000
"""A part is closed when it has so many tasks or, of large ones, so many bytes."""


@dataclass(slots=True)
class Loaded:
    """What loading some files did."""

    checked: FileCheck = field(default_factory=FileCheck)
    added: int = 0
    duplicates: int = 0
    """Not added: an unfinished task of the type has the same ``dedup_key``, or a task has the id."""
    earlier: int = 0
    """Tasks that an earlier load of the same file had added."""
    parts: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    name: str
    loaded: int
    """Lines that an earlier load has brought in."""
    begin: int
    """Lines to pass over."""
    digest: bytes
    """Of the whole file."""


@dataclass(frozen=True, slots=True)
class _Part:
    tasks: list[NewTask]
    lines: int
    digest: bytes


class Loading(Submission, Export):
    """The half of `blocks.queue.Queue` that loads files."""

    async def load_files(
        self,
        paths: Sequence[Path],
        *,
        strict: bool = True,
        again: bool = False,
        columns: Columns = TASKS,
        part: int = PART_TASKS,
        on_part: Callable[[Loaded], Any] | None = None,
    ) -> Loaded:
        """Add the tasks of JSON lines, CSV and Parquet files by COPY, each line or row of a file once.

        A part and the note of how far its file is loaded are one transaction. A file is known by its absolute
        path and the content of what was loaded of it: killed, or called twice, the next call goes on where
        the last one was; lines that were appended since are loaded too.

        Args:
            paths: The files.
            strict: Load nothing if a line of any file is bad; else load the others.
            again: Load the whole of each file, whatever was loaded of it before.
            columns: How columns become fields of tasks. A file is loaded once for each type that they name.
            part: Most tasks a transaction adds.
            on_part: Called after each part with what has been done so far.

        Raises:
            ConfigurationError: A file cannot be read, a line is bad, what was loaded of a file has changed
                since, or somebody else loads the same file now. Parts loaded by then stay.
        """
        done = Loaded()
        files = [
            await self._check(name, path, again, columns, done)
            for name, path in _by_name(paths, columns).items()
        ]
        if strict:
            names = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files"
            done.checked.refuse_bad(names)
        for file in files:
            await self._load_file(file, columns, part, on_part, done)
        return done

    async def _check(self, name: str, path: Path, again: bool, columns: Columns, done: Loaded) -> _File:
        """Read the whole of a file: what is bad in it, and whether it still begins as it was loaded."""
        known = await self.pool.fetchrow(statement("loaded"), name, timeout=READ_TIMEOUT)
        loaded: int = known["lines"] if known else 0
        begin = 0 if again else loaded

        def read() -> tuple[bytes, bytes | None]:
            with open_file(path) as source:
                lines = TaskFileReader(source, str(path), mark=begin, columns=columns)
                for found in lines:
                    done.checked.count(found)
                    done.earlier += lines.lines <= begin and isinstance(found, NewTask)
                return lines.digest(), lines.marked

        digest, marked = await asyncio.to_thread(read)
        if begin and known and marked != known["digest"]:
            raise ConfigurationError(
                f"{path}: its first {begin} lines were loaded earlier and have changed since",
                "put what is new into a file of its own, or load the whole of it `again`",
            )
        return _File(path, name, loaded, begin, digest)

    async def _load_file(
        self,
        file: _File,
        columns: Columns,
        part: int,
        on_part: Callable[[Loaded], Any] | None,
        done: Loaded,
    ) -> None:
        with open_file(file.path) as source:
            lines = TaskFileReader(source, str(file.path), columns=columns)
            parts = _parts(lines, file.begin, part)
            loaded = file.loaded
            # Reading and checking a part takes a while, and the loop has a flow's signals to listen to.
            while read := await asyncio.to_thread(next, parts, None):
                added = await self._load_part(file, loaded, read)
                loaded = read.lines
                done.added += added
                done.duplicates += len(read.tasks) - added
                done.parts += 1
                if on_part:
                    on_part(done)
            if lines.digest() != file.digest:
                raise ConfigurationError(
                    f"{file.path} was changed while it was loaded", f"look at lines up to {loaded}"
                )

    async def _load_part(self, file: _File, loaded: int, part: _Part) -> int:
        """Add a part and note it, both or neither; returns how many tasks were added."""
        moment = await self.now()
        rows = [task_row(task, moment) for task in part.tasks]
        noted = (file.name, loaded, part.lines, part.digest)
        async with self.pool.acquire() as connection:
            try:
                async with connection.transaction():
                    await _note(connection, *noted)
                    await connection.copy_records_to_table(
                        "tasks", records=rows, columns=LOADED_COLUMNS, timeout=SUBMIT_TIMEOUT
                    )
                return len(rows)
            except asyncpg.UniqueViolationError:
                pass
            # COPY cannot pass over what is there already.
            async with connection.transaction():
                await _note(connection, *noted)
                columns = [list(column) for column in zip(*rows, strict=True)]
                added = await connection.fetch(statement("load_missing"), *columns, timeout=SUBMIT_TIMEOUT)
                return len(added)


def _by_name(paths: Sequence[Path], columns: Columns) -> dict[str, Path]:
    # One file may be there twice, and may be loaded as tasks of several types.
    of_type = f" as {columns.type}" if columns.type is not None else ""
    return {os.path.realpath(path) + of_type: path for path in paths}


async def _note(connection: Any, name: str, loaded: int, lines: int, digest: bytes) -> None:
    # First, because it locks the file's row: of two loads of one file the second waits here and then is told.
    if not await connection.fetchval(
        statement("load_part"), name, loaded, lines, digest, timeout=SUBMIT_TIMEOUT
    ):
        raise ConfigurationError(
            f"{name} is being loaded by somebody else, who has the lines after {loaded}",
            "let them finish; loading it once more then shows that nothing is left",
        )


def _parts(lines: TaskFileReader, begin: int, part: int) -> Iterator[_Part]:
    """What comes after line ``begin``, without bad lines; the last part ends where the file does."""
    tasks: list[NewTask] = []
    closed_at = 0
    noted = begin
    for found in lines:
        if lines.lines <= begin:
            closed_at = lines.bytes
            continue
        if isinstance(found, NewTask):
            tasks.append(found)
        if len(tasks) >= part or lines.bytes - closed_at >= PART_BYTES:
            yield _Part(tasks, lines.lines, lines.digest())
            tasks, closed_at, noted = [], lines.bytes, lines.lines
    if lines.lines > noted:
        yield _Part(tasks, lines.lines, lines.digest())
