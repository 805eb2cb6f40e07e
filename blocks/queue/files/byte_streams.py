"""Byte streams of text files: decompresses them, and refuses other formats by name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO, cast

from organism_flows.blocks.errors import ConfigurationError

COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
"""Codec of a file, by suffix."""
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_OTHERS = {
    b"PAR1": ("Parquet", "name it .parquet"),
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "save its sheet as CSV (UTF-8)"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save its sheet as CSV (UTF-8)"),
    b"BZh": ("compressed with bzip2", "compress it with gzip or zstd"),
    b"\xfd7zXZ": ("compressed with xz", "compress it with gzip or zstd"),
    b"\xff\xfe": ("text in UTF-16 or UTF-32", "save it as UTF-8"),
    b"\xfe\xff": ("text in UTF-16", "save it as UTF-8"),
    b"\x00\x00\xfe\xff": ("text in UTF-32", "save it as UTF-8"),
}
_MAGIC_BYTES = 6


def text_stream(source: BinaryIO, name: str) -> BinaryIO:
    """Return the bytes of a text file, decompressed if its first bytes show that it is compressed.

    Args:
        source: The file as it is stored. It need not be seekable.
        name: Name of the file. One that ends in ``.gz`` or ``.zst`` must be compressed in this way.

    Raises:
        ConfigurationError: The content does not match the name, or is not text in UTF-8.
        OSError: The file cannot be read, is cut off or damaged. Reads from the returned stream raise it as
            well.
    """
    stream: BinaryIO = _buffered(source)
    codec = next((codec for magic, codec in _MAGIC.items() if _head(stream).startswith(magic)), None)
    named = COMPRESSED.get(Path(name).suffix.lower())
    if named and codec != named:
        raise ConfigurationError(
            f"{name} is not compressed with {named}, or is cut off",
            "write it again, or give it its own suffix",
        )
    if codec:
        import pyarrow as pa  # slow to import

        # Unlike the standard library's gzip, it knows zstd. It refuses a stream that is cut off at any byte,
        # and reads several streams that follow one another.
        stream = io.BufferedReader(cast("Any", pa.CompressedInputStream(stream, codec)))
    _refuse_what_is_no_text(stream, name)
    return stream


def _buffered(source: BinaryIO) -> Any:
    return source if hasattr(source, "peek") else io.BufferedReader(cast("Any", source))


def _head(stream: Any) -> bytes:
    return cast("bytes", stream.peek(_MAGIC_BYTES))[:_MAGIC_BYTES]


def _refuse_what_is_no_text(stream: Any, name: str) -> None:
    head = _head(stream)
    for magic, (what, next_step) in _OTHERS.items():
        if head.startswith(magic):
            raise ConfigurationError(f"{name} is {what}", next_step)
    if b"\0" in head:
        raise ConfigurationError(f"{name} begins with NUL bytes, as text in UTF-16 does", "save it as UTF-8")


def broken(name: str, error: OSError, line: int) -> ConfigurationError:
    """Return the one line for a file that cannot be read any further."""
    why = error.strerror or " ".join(str(error).split())[:200]
    place = f" after line {line}" if line else ""
    return ConfigurationError(f"cannot read {name}{place}: {why}", "write the file again")
