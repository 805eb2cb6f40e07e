"""Loading of task files, part by part, each line once. After a crash, run it again."""

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
"""Tasks after which a part ends."""
PART_BYTES = 16_000_000
"""Bytes of the file after which a part ends, even if it has fewer tasks."""


@dataclass(slots=True)
class Loaded:
    """Result of loading some files."""

    checked: FileCheck = field(default_factory=FileCheck)
    added: int = 0
    duplicates: int = 0
    """Tasks not added: an unfinished task of the type has the same ``dedup_key``, or a task has the same id.
    """
    earlier: int = 0
    """Tasks that an earlier load of the same file had added."""
    parts: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    name: str
    loaded: int
    """Lines that an earlier load has added."""
    begin: int
    """Lines to skip."""
    digest: bytes
    """Digest of the whole file."""


@dataclass(frozen=True, slots=True)
class _Part:
    tasks: list[NewTask]
    lines: int
    digest: bytes


class Loading(Submission, Export):
    """Operations of `blocks.queue.Queue` that load files."""

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

        A part, and the note of how far its file is loaded, are one transaction. A file is identified by its
        absolute path and by the content of the lines loaded from it. After a crash, and on a second call, the
        next call continues where the last one ended. Lines appended since then are loaded too.

        Args:
            paths: The files.
            strict: Load nothing if a line of any file is bad. If False, load the other lines.
            again: Load the whole of each file, whatever was loaded of it before.
            columns: How columns become fields of tasks. A file is loaded once for each type that they name.
            part: Most tasks that a transaction adds.
            on_part: Called after each part with the result so far.

        Returns:
            The result over all files.

        Raises:
            ConfigurationError: A file cannot be read, a line is bad, the lines loaded from a file have
                changed since, or another process loads the same file now. Parts loaded by then stay.
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
        """Read a whole file, count its bad lines, and check that the lines loaded earlier are unchanged."""
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
            # Reading and checking a part takes a while, and the event loop must handle a flow's signals
            # meanwhile.
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
        """Add a part and note it in one transaction. Return how many tasks were added."""
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
            # COPY cannot skip tasks that exist already.
            async with connection.transaction():
                await _note(connection, *noted)
                columns = [list(column) for column in zip(*rows, strict=True)]
                added = await connection.fetch(statement("load_missing"), *columns, timeout=SUBMIT_TIMEOUT)
                return len(added)


def _by_name(paths: Sequence[Path], columns: Columns) -> dict[str, Path]:
    # One file may be named twice, and may be loaded as tasks of several types.
    of_type = f" as {columns.type}" if columns.type is not None else ""
    return {os.path.realpath(path) + of_type: path for path in paths}


async def _note(connection: Any, name: str, loaded: int, lines: int, digest: bytes) -> None:
    # First, because it locks the file's row: if two loads of one file meet, the second waits here and then
    # fails.
    if not await connection.fetchval(
        statement("load_part"), name, loaded, lines, digest, timeout=SUBMIT_TIMEOUT
    ):
        raise ConfigurationError(
            f"{name} is being loaded by somebody else, who has the lines after {loaded}",
            "let them finish; loading it once more then shows that nothing is left",
        )


def _parts(lines: TaskFileReader, begin: int, part: int) -> Iterator[_Part]:
    """Yield the lines after line ``begin`` in parts, without bad lines. The last part ends with the file."""
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
