"""A TCP proxy in front of Postgres that can fall silent, as a network does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit


class Proxy:
    """Forwards to a Postgres on a Unix socket; silent, it passes nothing and keeps every socket open."""

    def __init__(self, dsn: str) -> None:
        url = urlsplit(dsn)
        options = parse_qs(url.query)
        self._socket = f"{options['host'][0]}/.s.PGSQL.{options['port'][0]}"
        self._user, self._database = url.username, url.path
        self._audible = asyncio.Event()
        self._audible.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self.port = 0
        self.connected = 0
        """Connections accepted so far."""

    @property
    def dsn(self) -> str:
        return f"postgresql://{self._user}@127.0.0.1:{self.port}{self._database}?sslmode=disable"

    def fall_silent(self) -> None:
        """From now on forward nothing, in either direction, and accept connections without a word."""
        self._audible.clear()

    def hold_answers(self) -> None:
        """From now on forward only what clients say."""
        self._answering.clear()

    def speak(self) -> None:
        """Forward again, including what was held back."""
        self._audible.set()
        self._answering.set()

    def cut(self) -> None:
        """Close every connection."""
        for task in self._tasks:
            task.cancel()

    def refuse(self) -> None:
        """From now on close every connection, those that stand and those that are made."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Take connections again."""
        self._refusing = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        if self._refusing:
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        writers = [writer]
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._socket)
            writers.append(server_writer)
            await asyncio.gather(
                self._copy(reader, server_writer, self._audible),
                self._copy(server_reader, writer, self._audible, self._answering),
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.close()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *allowed: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            for each in allowed:
                await each.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the Postgres that ``dsn`` names."""
    proxy = Proxy(dsn)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1")
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 5)
