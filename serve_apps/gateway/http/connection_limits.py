"""Limits of each connection to the gateway, in bytes and in time. They apply before a token is checked.

uvicorn's own protocol reads a head of any length, in time that grows with its square (12 s for a header of
20 MB, httptools 0.9). And it waits for ever for the rest of a request.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT = 32_768
"""Longest request line and headers, in bytes; also the most bytes between two pieces of a body."""
HEADERS_LIMIT = 100
READ_TIMEOUT_S = 20.0
"""Longest time for a request to arrive, and for a new connection to send its first one, in seconds."""
PIPELINE_LIMIT = 16
"""Most requests that may wait on one connection for the answer to an earlier one."""


class BoundedProtocol(HttpToolsProtocol):
    """Protocol of uvicorn with limits. `limit_concurrency` of its configuration limits the connections."""

    transport: asyncio.Transport

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.quiet_since = self.loop.time()
        """When the connection opened or its last answer ended, by the loop's clock."""
        self._deadline: asyncio.TimerHandle | None = None
        self._head = 0
        """Bytes received since the last piece of a body."""
        self._length = 0
        """Bytes of the head that are parsed."""
        self._excess: HTTPStatus | None = None

    @property
    def is_quiet(self) -> bool:
        """Return True if no request is under way."""
        return self.cycle is None or self.cycle.response_complete or self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        limit = self.config.limit_concurrency
        if limit is not None and len(self.connections) >= limit - 1:
            # A new connection is more likely to be used than the one that has been quiet for longest. If all
            # have a request under way, uvicorn answers 503.
            quiet = [each for each in self.connections if isinstance(each, BoundedProtocol) and each.is_quiet]
            if quiet:
                oldest = min(quiet, key=lambda each: each.quiet_since)
                self.connections.discard(oldest)
                oldest.transport.abort()
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._deadline is None:
            self._start_deadline()
        self._head += len(data)
        super().data_received(data)
        if self._head > HEAD_LIMIT:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINE_LIMIT:
            self._exceed(HTTPStatus.TOO_MANY_REQUESTS)
        super().on_message_begin()
        self._length = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._length += len(url)
        if self._length > HEAD_LIMIT:
            self._exceed(HTTPStatus.REQUEST_URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers, the headers after a chunked body, come here too.
        super().on_header(name, value)
        self._length += len(name) + len(value)
        if self._length > HEAD_LIMIT or len(self.headers) > HEADERS_LIMIT:
            self._exceed(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_body(self, body: bytes) -> None:
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head = 0
        self._stop_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.quiet_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._excess or HTTPStatus.BAD_REQUEST)

    def _exceed(self, status: HTTPStatus) -> None:
        # The error passes through the parser, which stops. Then uvicorn calls `send_400_response`.
        self._excess = status
        raise ValueError(status.phrase)

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(READ_TIMEOUT_S, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: HTTPStatus) -> None:
        """Close the connection. First send the error, unless an answer is on its way or nothing arrived."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        answering = cycle is not None and cycle.response_started and not cycle.response_complete
        if self._head and not answering:
            words = status.phrase.encode()
            lines = [
                b"HTTP/1.1 %d %b" % (status, words),
                b"content-type: text/plain",
                b"content-length: %d" % len(words),
                b"connection: close",
                b"",
                words,
            ]
            self.transport.write(b"\r\n".join(lines))
        self.transport.close()
