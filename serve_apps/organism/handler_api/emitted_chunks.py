"""The chunks that one run of a handler emits, and their limits."""

from __future__ import annotations

from organism_flows.blocks.errors import StreamFull
from organism_flows.blocks.task_report import Chunks

CHUNK_LIMIT_BYTES = 64_000
"""Largest chunk, in bytes of JSON text."""
CHUNKS_LIMIT = 50_000
"""Most chunks of one run of a handler."""
CHUNKS_LIMIT_BYTES = 4_000_000
"""Largest sum of the chunks of one run of a handler, in bytes of JSON text."""


class EmittedChunks:
    """Counts the chunks of one run of a handler."""

    __slots__ = ("_bytes", "_count")

    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0

    def add(self, text: str) -> Chunks:
        """Return what to report of one more chunk.

        Args:
            text: The chunk as JSON text.

        Raises:
            StreamFull: There is no room for it.
        """
        size = len(text.encode())
        if self._count >= CHUNKS_LIMIT or self._bytes + size > CHUNKS_LIMIT_BYTES:
            raise StreamFull(
                f"the stream has {self._count:,} chunks of {self._bytes:,} bytes; one more of {size:,} bytes "
                f"exceeds its limit of {CHUNKS_LIMIT:,} chunks and {CHUNKS_LIMIT_BYTES:,} bytes"
            )
        self._count += 1
        self._bytes += size
        return Chunks((text,), anew=self._count == 1)
