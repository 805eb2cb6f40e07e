"""What an organism that answers says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle


@asynccontextmanager
async def organism_says(*answers: object, running: object = None) -> AsyncIterator[str]:
    """URL of an organism whose ``/status`` gives these answers in turn.

    Args:
        running: What its ``/running`` answers; None: it has no such route.
    """
    turns = cycle(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        if asked.startswith(b"GET /organism/running "):
            status, body = b"404 Not Found" if running is None else b"200 OK", json.dumps(running).encode()
        else:
            assert asked.startswith(b"GET /organism/status ")
            status, body = b"200 OK", json.dumps(next(turns)).encode()
        writer.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(body)))
        writer.write(body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/organism"
