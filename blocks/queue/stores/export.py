"""Export of tasks with their params and results, page by page."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from uuid import UUID

from organism_flows.blocks.queue.db.statements import statement
from organism_flows.blocks.queue.models import STATUSES, Exported, Status, TaskFilter
from organism_flows.blocks.queue.stores.reads import Inspection

EXPORT_TIMEOUT = 300.0
"""Longest time for a page, in seconds: a filter that few tasks match reads many others before it finds one.
"""
PAGE_TASKS = 1000
PAGE_BYTES = 8_000_000
"""Bytes of params and results after which a page ends, as they are stored: Postgres compresses them."""


class Export(Inspection):
    """Operations of `blocks.queue.Queue` that export tasks."""

    async def export(
        self, filter: TaskFilter, *, page: int = PAGE_TASKS, page_bytes: int = PAGE_BYTES
    ) -> AsyncGenerator[list[Exported], None]:
        """Yield the tasks that match in pages, in descending order of their ids.

        No task is in two pages. A task that matches all the time is in one of them. Each page shows the table
        at the time it was read: no transaction stays open between pages.

        Args:
            filter: Which tasks.
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
        """Return the number of tasks that match, by status. Every status is present."""
        rows = await self.pool.fetch(statement("counts_of"), *filter.columns(), timeout=EXPORT_TIMEOUT)
        return dict.fromkeys(STATUSES, 0) | {row["status"]: row["tasks"] for row in rows}
