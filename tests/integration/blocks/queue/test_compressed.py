"""Compressed files: read as what is in them, and nothing of one that is cut off or damaged."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.files.reader import RejectedRow, TaskFileReader

RANDOM = Random(0)
LINES = b"".join(
    b'{"type": "t", "params": {"n": %d, "r": "%x"}}\n' % (n, RANDOM.getrandbits(64)) for n in range(200)
)
CODECS = pytest.mark.parametrize("suffix", [".gz", ".zst"])


def compressed(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content)
    zstd: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return zstd


def read(content: bytes, name: str) -> list[NewTask | RejectedRow]:
    return list(TaskFileReader(io.BytesIO(content), name))


@CODECS
def test_it_is_read_as_what_is_in_it(suffix: str) -> None:
    assert len(read(compressed(LINES, suffix), f"f.jsonl{suffix}")) == 200
    # Several streams that follow one another are one file, as for gzip and zstd themselves.
    assert len(read(compressed(LINES, suffix) * 2, f"f.jsonl{suffix}")) == 400
    # As standard input is, which has no name.
    assert len(read(compressed(LINES, suffix), "-")) == 200
    [row] = read(compressed(b"type,params.city\nt,Rome\n", suffix), f"F.CSV{suffix.upper()}")
    assert isinstance(row, NewTask)
    assert row.params == {"city": "Rome"}
    line = read(compressed(LINES + b"{\n", suffix), f"f.jsonl{suffix}")[-1]
    assert str(line).startswith(f"f.jsonl{suffix}:201: not JSON")


@CODECS
def test_cut_off_at_any_byte_it_is_refused(suffix: str) -> None:
    content = compressed(LINES, suffix)
    for length in range(0, len(content), 1 if len(content) < 500 else 7):
        with pytest.raises(ConfigurationError, match=r"f\.jsonl"):
            read(content[:length], f"f.jsonl{suffix}")


def test_damaged_or_followed_by_something_else_it_is_refused() -> None:
    content = bytearray(compressed(LINES, ".gz"))
    content[len(content) // 2] ^= 0xFF
    for damaged in (bytes(content), compressed(LINES, ".gz") + b"more"):
        with pytest.raises(ConfigurationError, match=r"cannot read f\.jsonl\.gz"):
            read(damaged, "f.jsonl.gz")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("f.jsonl.gz", LINES, "not compressed with gzip"),
        ("f.jsonl.zst", gzip.compress(LINES, mtime=0), "not compressed with zstd"),
        ("f.parquet.gz", gzip.compress(b"PAR1", mtime=0), "Parquet inside a compressed file"),
        ("f.jsonl", b"PAR1", "is Parquet"),
        ("f.jsonl.bz2", b"BZh91AY", "compressed with bzip2"),
    ],
)
def test_what_is_not_what_its_name_says_is_refused(name: str, content: bytes, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        read(content, name)


@CODECS
@pytest.mark.anyio
async def test_each_line_is_loaded_once_and_nothing_of_a_file_that_is_cut_off(
    queue: Queue, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"f.jsonl{suffix}"
    file.write_bytes(compressed(LINES, suffix)[:-5])
    for strict in (True, False):
        with pytest.raises(ConfigurationError, match="cannot read"):
            await queue.producer.load_files([file], strict=strict, part=30)
    assert sum((await queue.reader.counts()).values()) == 0
    file.write_bytes(compressed(LINES, suffix))

    def stop(_: object) -> None:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await queue.producer.load_files([file], part=30, on_part=stop)
    done = await queue.producer.load_files([file], part=30)
    assert (done.added, done.earlier, done.parts) == (170, 30, 6)
    # Compressed once more, with more lines: its lines are what counts.
    file.write_bytes(compressed(LINES[:100], suffix) + compressed(LINES[100:] + b'{"type": "t"}\n', suffix))
    done = await queue.producer.load_files([file])
    assert (done.added, done.earlier) == (1, 200)
