"""Tasks with their params and results, page by page, for as many as there are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from uuid import UUID

from organism_flows.blocks.queue.db.statements import statement
from organism_flows.blocks.queue.models import STATUSES, Exported, Status, TaskFilter
from organism_flows.blocks.queue.stores.reads import Inspection

EXPORT_TIMEOUT = 300.0
"""For a page, in seconds: a filter that few tasks fit reads many others before it has one."""
PAGE_TASKS = 1000
PAGE_BYTES = 8_000_000
"""A page ends after so many bytes of params and results, as they are stored: Postgres compresses them."""


class Export(Inspection):
    """The half of `blocks.queue.Queue` that exports tasks."""

    async def export(
        self, filter: TaskFilter, *, page: int = PAGE_TASKS, page_bytes: int = PAGE_BYTES
    ) -> AsyncGenerator[list[Exported], None]:
        """Yield the tasks that fit ``filter`` in pages, by falling id.

        No page shows a task twice, and a task that fits all the while is in one. Each page is as the table
        was when it was read: no transaction stays open in between.

        Args:
            page: Most tasks of a page.
            page_bytes: Bytes of params and results, as stored, after which a page ends.
        """
        last: UUID | None = None
        while rows := await self.pool.fetch(
            statement("export"), *filter.columns(), last, page, page_bytes, timeout=EXPORT_TIMEOUT
        ):
            yield [dict(row) for row in rows]
            last = UUID(rows[-1]["id"])

    async def counts_of(self, filter: TaskFilter) -> dict[Status, int]:
        """Count the tasks that fit ``filter`` by status; every status is present."""
        rows = await self.pool.fetch(statement("counts_of"), *filter.columns(), timeout=EXPORT_TIMEOUT)
        return dict.fromkeys(STATUSES, 0) | {row["status"]: row["tasks"] for row in rows}
