"""What `organism tasks export` does with files and pipes."""

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
    """Return the format that is asked for, or that the name of a file says; JSON lines if neither does.

    Raises:
        ConfigurationError: It says one that is not written.
    """
    suffix = Path(output).suffix.lower()
    if suffix in COMPRESSED:
        raise ConfigurationError(
            f"{output} would not be compressed", "write to - and compress that: … --output - | gzip > FILE"
        )
    return format or SUFFIXES.get(suffix, "jsonl")


async def export(queue: Queue, filter: TaskFilter, format: Format, output: str) -> int:
    """Write the tasks that fit a filter.

    Args:
        output: A file, which has its name only once it is whole, or ``-`` for standard output.

    Returns:
        How many.

    Raises:
        ConfigurationError: The file cannot be written.
        OrganismError: The reader of the output is gone.
    """
    from organism_flows.blocks.queue.files.writers import task_writer

    count = 0
    try:
        with _standard_output() if output == "-" else _whole_file(Path(output)) as sink:
            writer = task_writer(format, sink)
            async for page in queue.export(filter):
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
    """A file that has its name once the block has ended without an error, and else is removed."""
    if path.exists() and not path.is_file():
        # A device or a named pipe is written as it is.
        with path.open("wb") as sink:
            yield sink
        return
    target = path.resolve()  # a link stays one
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
