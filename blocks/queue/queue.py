"""The task queue of one database, without Prefect or Ray."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Self
from uuid import UUID

from organism_flows.blocks.queue.db.database import Database

if TYPE_CHECKING:
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
        application_name: Name of its connections in Postgres.
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
        self._backoff_base_s = backoff_base_s
        self._backoff_cap_s = backoff_cap_s

    # Each store is imported when it is used. A short command needs one; all take a sixth of its imports.

    @cached_property
    def producer(self) -> Producer:
        """Adds tasks, one by one, in bulk and from files."""
        from organism_flows.blocks.queue.stores.producer import Producer

        return Producer(self._database)

    @cached_property
    def leases(self) -> Leases:
        """Keeps lanes alive, and takes back the tasks of those that are not."""
        from organism_flows.blocks.queue.stores.leases import Leases

        return Leases(self._database, lease_s=self.lease_s)

    @cached_property
    def claims(self) -> Claims:
        """Gives tasks to lanes, and takes their outcomes."""
        from organism_flows.blocks.queue.stores.claims import Claims

        return Claims(self._database, backoff_base_s=self._backoff_base_s, backoff_cap_s=self._backoff_cap_s)

    @cached_property
    def reports(self) -> Reports:
        """Keeps what running tasks report."""
        from organism_flows.blocks.queue.stores.reports import Reports

        return Reports(self._database)

    @cached_property
    def reader(self) -> Reader:
        """Reads tasks, lanes and counts."""
        from organism_flows.blocks.queue.stores.reader import Reader

        return Reader(self._database)

    @cached_property
    def operator(self) -> Operator:
        """Cancels, retries, redrives and pauses tasks, sets policies, and asks lanes to end."""
        from organism_flows.blocks.queue.stores.operator import Operator

        return Operator(self._database)

    @cached_property
    def maintenance(self) -> Maintenance:
        """Deletes what is old."""
        from organism_flows.blocks.queue.stores.maintenance import Maintenance

        return Maintenance(self._database, direct_dsn=self.direct_dsn)

    @cached_property
    def board(self) -> Board:
        """Reads for the board, and records who did what."""
        from organism_flows.blocks.queue.stores.board import Board

        return Board(self._database)

    @cached_property
    def health(self) -> Health:
        """Finds what is wrong with the database, the queue or running work."""
        from organism_flows.blocks.queue.stores.health import Health

        return Health(self._database)

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
