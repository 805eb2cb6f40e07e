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
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.files.columns import Columns
from organism_flows.blocks.queue.files.reader import FileCheck, TaskFileReader, open_file
from organism_flows.blocks.queue.models.operations import NewTask
from organism_flows.blocks.queue.stores.task_rows import COLUMNS, as_columns, paths_refused, task_row

PART_TIMEOUT = 60.0
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


class FileLoad:
    """One load of some files.

    Args:
        database: The queue's database.
        columns: How columns become fields of tasks.
        part: Most tasks that a transaction adds.
        on_part: Called after each part with the result so far.
    """

    def __init__(
        self,
        database: Database,
        *,
        columns: Columns,
        part: int,
        on_part: Callable[[Loaded], Any] | None,
    ) -> None:
        self._database = database
        self._columns = columns
        self._part = part
        self._on_part = on_part
        self._loaded = Loaded()

    async def run(self, paths: Sequence[Path], *, strict: bool, again: bool) -> Loaded:
        """Load the files; see `Producer.load_files`."""
        files = [
            await self._check(name, path, again) for name, path in _by_name(paths, self._columns).items()
        ]
        if strict:
            names = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files"
            self._loaded.checked.refuse_bad(names)
        for file in files:
            await self._load_file(file)
        return self._loaded

    async def _check(self, name: str, path: Path, again: bool) -> _File:
        """Read a whole file, count its bad lines, and check that the lines loaded earlier are unchanged."""
        known = await self._database.fetchrow("loaded", name=name)
        loaded: int = known["lines"] if known else 0
        begin = 0 if again else loaded

        def read() -> tuple[bytes, bytes | None]:
            with open_file(path) as source:
                lines = TaskFileReader(source, str(path), mark=begin, columns=self._columns)
                for found in lines:
                    self._loaded.checked.count(found)
                    self._loaded.earlier += lines.lines <= begin and isinstance(found, NewTask)
                return lines.digest(), lines.marked

        digest, marked = await asyncio.to_thread(read)
        if begin and known and marked != known["digest"]:
            raise ConfigurationError(
                f"{path}: its first {begin} lines were loaded earlier and have changed since",
                "put what is new into a file of its own, or load the whole of it `again`",
            )
        return _File(path, name, loaded, begin, digest)

    async def _load_file(self, file: _File) -> None:
        with open_file(file.path) as source:
            lines = TaskFileReader(source, str(file.path), columns=self._columns)
            parts = _parts(lines, file.begin, self._part)
            loaded = file.loaded
            # Reading and checking a part takes a while, and the event loop must handle a flow's signals
            # meanwhile.
            while read := await asyncio.to_thread(next, parts, None):
                with paths_refused():
                    added = await self._load_part(file, loaded, read)
                loaded = read.lines
                self._loaded.added += added
                self._loaded.duplicates += len(read.tasks) - added
                self._loaded.parts += 1
                if self._on_part:
                    self._on_part(self._loaded)
            if lines.digest() != file.digest:
                raise ConfigurationError(
                    f"{file.path} was changed while it was loaded", f"check its lines up to {loaded}"
                )

    async def _load_part(self, file: _File, loaded: int, part: _Part) -> int:
        """Add a part and note it in one transaction. Return how many tasks were added."""
        moment = await self._database.fetchval("now")
        rows = [task_row(task, moment) for task in part.tasks]
        async with self._database.session() as session:
            try:
                async with session.connection.transaction():
                    await _note(session, file.name, loaded, part)
                    await session.connection.copy_records_to_table(
                        "tasks", records=rows, columns=COLUMNS, timeout=PART_TIMEOUT
                    )
                return len(rows)
            except asyncpg.UniqueViolationError:
                pass
            # COPY cannot skip tasks that exist already.
            async with session.connection.transaction():
                await _note(session, file.name, loaded, part)
                return len(await session.fetch("load_missing", **as_columns(rows), timeout=PART_TIMEOUT))


def _by_name(paths: Sequence[Path], columns: Columns) -> dict[str, Path]:
    # One file may be named twice, and may be loaded as tasks of several types.
    of_type = f" as {columns.type}" if columns.type is not None else ""
    return {os.path.realpath(path) + of_type: path for path in paths}


async def _note(session: Session, name: str, loaded: int, part: _Part) -> None:
    # First, because it locks the file's row: if two loads of one file meet, the second waits here and then
    # fails.
    if not await session.fetchval(
        "load_part", name=name, loaded=loaded, lines=part.lines, digest=part.digest, timeout=PART_TIMEOUT
    ):
        raise ConfigurationError(
            f"{name} is being loaded by another process, which has the lines after {loaded}",
            "wait until it ends; loading the file once more then shows that nothing is left",
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
