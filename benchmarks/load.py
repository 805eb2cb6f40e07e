"""Requests over a few kept connections, as fast as they are answered, at little cost of its own.

An HTTP client of the usual kind takes as much of a processor as the server that it is to load.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from urllib.parse import urlsplit

from benchmarks.figures import Unmeasured

CONNECTIONS = 16
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def request(url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a GET, or of a POST of JSON."""
    parts = urlsplit(url)
    head = f"{'GET' if body is None else 'POST'} {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + (body or b"")


@dataclass
class Load:
    """What is asked for, until when, and how much has been answered."""

    requests: Iterator[bytes]
    until: float
    answered: int = 0


class Connection(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._answer = b""
        self._transport: asyncio.Transport
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(next(self._load.requests))

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, there, body = self._answer.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not there or (length and len(body) < int(length[1])):
            return
        if length is None or not self._answer.startswith(b"HTTP/1.1 20"):
            self._end(Unmeasured(f"the server answers {self._answer[:300]!r}"))
            return
        self._answer = b""
        self._load.answered += 1
        if time.perf_counter() < self._load.until:
            self._transport.write(next(self._load.requests))
        else:
            self._end(None)

    def connection_lost(self, _: Exception | None) -> None:
        self._end(Unmeasured("the server closed a connection"))

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
        self._transport.close()


async def rate(url: str, requests: list[bytes], seconds: float) -> float:
    """Requests answered a second, over about so many seconds.

    Raises:
        Unmeasured: One was not answered with a status of success.
    """
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    host, port = parts.hostname, parts.port
    started = time.perf_counter()
    load = Load(cycle(requests), started + seconds)
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Connection(load), host, port) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(connection.ended for _, connection in made))
    return load.answered / (time.perf_counter() - started)
