"""The task queue of one database, without Prefect or Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self
from uuid import UUID

from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.models.operations import NewTask
from organism_flows.blocks.queue.models.rows import TaskRow
from organism_flows.blocks.queue.stores.board import Board
from organism_flows.blocks.queue.stores.claims import Claims
from organism_flows.blocks.queue.stores.health import Health
from organism_flows.blocks.queue.stores.leases import Leases
from organism_flows.blocks.queue.stores.maintenance import Maintenance
from organism_flows.blocks.queue.stores.operator import Operator
from organism_flows.blocks.queue.stores.producer import Producer
from organism_flows.blocks.queue.stores.reader import Reader
from organism_flows.blocks.queue.stores.reports import Reports


class Queue:
    """The tasks of one database. Use it as an async context manager.

    Entering raises `QueueUnavailable` or `SchemaMismatch`. A method whose connection breaks raises asyncpg's
    own error, one of `blocks.queue.db.connection.TRANSIENT_ERRORS`, and may be called again.

    Args:
        dsn: Postgres connection URL.
        lease_s: Seconds without a renewal after which a lane loses its tasks.
        backoff_base_s: Delay before the second attempt; doubles with each further one, with jitter.
        backoff_cap_s: Longest delay between attempts.
        connections: Most connections at once.
        direct_dsn: Connection URL past a pooler, for LISTEN. `None`: ``dsn`` is direct, or lanes poll.
    """

    def __init__(
        self,
        dsn: str,
        *,
        direct_dsn: str | None = None,
        lease_s: float = 15.0,
        backoff_base_s: float = 1.0,
        backoff_cap_s: float = 300.0,
        connections: int = 4,
        application_name: str = "organism",
    ) -> None:
        self.dsn = dsn
        self.direct_dsn = direct_dsn or dsn
        self.lease_s = lease_s
        self._database = Database(dsn, connections=connections, application_name=application_name)
        self.producer = Producer(self._database)
        """Adds tasks, one by one, in bulk and from files."""
        self.leases = Leases(self._database, lease_s=lease_s)
        """Keeps lanes alive, and takes back the tasks of those that are not."""
        self.claims = Claims(self._database, backoff_base_s=backoff_base_s, backoff_cap_s=backoff_cap_s)
        """Gives tasks to lanes, and takes their outcomes."""
        self.reports = Reports(self._database)
        """Keeps what running tasks report."""
        self.reader = Reader(self._database)
        """Reads tasks, lanes and counts."""
        self.operator = Operator(self._database)
        """Cancels, retries, redrives and pauses tasks, sets policies, and asks lanes to end."""
        self.maintenance = Maintenance(self._database, direct_dsn=self.direct_dsn)
        """Deletes what is old."""
        self.board = Board(self._database)
        """Reads for the board, and records who did what."""
        self.health = Health(self._database)
        """Finds what is wrong with the database, the queue or running work."""

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. One that does not answer is cut off after five seconds."""
        await self._database.close()

    async def submit(self, tasks: Sequence[NewTask], *, traceparent: str | None = None) -> list[UUID]:
        """Add all tasks or none; see `Producer.submit`."""
        return await self.producer.submit(tasks, traceparent=traceparent)

    async def get(self, task_id: str) -> TaskRow:
        """Return the task with this id or unique id prefix; see `Reader.get`."""
        return await self.reader.get(task_id)
