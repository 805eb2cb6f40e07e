"""Writes the output of `organism tasks export` to files and pipes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from organism_flows.blocks.errors import ConfigurationError, OrganismError

if TYPE_CHECKING:
    from organism_flows.blocks.queue import Queue, TaskFilter
    from organism_flows.blocks.queue.files.writers import Format

SUFFIXES: dict[str, Format] = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
COMPRESSED = (".gz", ".zst", ".zstd")


def format_of(output: str, format: Format | None) -> Format:
    """Return the format given, or that of the file's suffix, or else JSON lines.

    Raises:
        ConfigurationError: The suffix is that of a compressed file, which is not supported.
    """
    suffix = Path(output).suffix.lower()
    if suffix in COMPRESSED:
        raise ConfigurationError(
            f"{output} would not be compressed", "write to - and compress that: … --output - | gzip > FILE"
        )
    return format or SUFFIXES.get(suffix, "jsonl")


async def export(queue: Queue, filter: TaskFilter, format: Format, output: str) -> int:
    """Write the tasks that match a filter.

    Args:
        queue: An open queue.
        filter: Selects the tasks.
        format: Format of the output.
        output: A file, or ``-`` for standard output. The file gets its name only when it is complete.

    Returns:
        The number of tasks written.

    Raises:
        ConfigurationError: The file cannot be written.
        OrganismError: The reader of the output has closed it.
    """
    from organism_flows.blocks.queue.files.writers import task_writer

    count = 0
    try:
        with _standard_output() if output == "-" else _whole_file(Path(output)) as sink:
            writer = task_writer(format, sink)
            async for page in queue.reader.export(filter):
                writer.write(page)
                count += len(page)
            writer.close()
    except BrokenPipeError:
        raise OrganismError(
            f"the reader of the output left after {count} tasks were written", "what it has is not all"
        ) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "no space left on its disk" if full else error.strerror
        if error.strerror is None:
            raise
        raise ConfigurationError(
            f"cannot write {output}: {why}, nothing is left of it"
            if output != "-"
            else f"cannot write: {why}",
            "free some space, or name another file",
        ) from None
    return count


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    sys.stdout.flush()
    with open(sys.stdout.fileno(), "wb", closefd=False) as sink:
        yield sink


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that gets its name when the block ends without an error, and else is deleted."""
    if path.exists() and not path.is_file():
        # A device or a named pipe is written directly.
        with path.open("wb") as sink:
            yield sink
        return
    target = path.resolve()  # a link stays a link
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
