"""Reading the streams of tasks, by one poll for all clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from organism_flows.blocks.queue.models.streams import StreamPart, StreamPlace
from organism_flows.serve_apps.gateway.shared_poll import SharedPoll

STREAM_SHARE = 4
"""Upper bound on the share of time spent reading streams, as 1/N. More than for waits: with 1/20, half of
2,000 readers with a chunk a second each waited for 3.7 s and more, on 2 cores at a load of 12."""


class _AtPlace:
    """Watcher of one stream: takes the first answer that has something new for the client."""

    def __init__(self) -> None:
        self.notified = asyncio.Event()
        self.part: StreamPart | None = None

    def notify(self, place: StreamPlace, part: StreamPart | None) -> None:
        if part is None or part.stored or part.claim != place.claim or part.ended:
            self.part = part
            self.notified.set()


class StreamWatcher(SharedPoll[StreamPlace, StreamPart]):
    """Polls the streams that clients read. Clients at the same place share what is read."""

    async def parts(self, place: StreamPlace) -> AsyncGenerator[tuple[StreamPlace, StreamPart | None], None]:
        """Yield the parts of a stream that follow ``place``, each with its place, until the task has ended.

        The last part has no chunks. An outage of Postgres is waited out.

        Yields:
            `None` means that the task does not exist, or no longer exists.
        """
        while True:
            watcher = _AtPlace()
            self._add(place, watcher)
            try:
                await watcher.notified.wait()
            finally:
                # While the client takes what it got, nothing more is read for it.
                self._remove(place, watcher)
            part = watcher.part
            yield place, part
            if part is None:
                return
            for event in part.events(place):
                place = place._replace(claim=event.claim, number=event.number)
            if part.ended:
                return
