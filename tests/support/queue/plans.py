"""Plans of the statements of a queue."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from asyncpg.pool import PoolConnectionProxy

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.statements import statement
from tests.support.sql import pool_of


@dataclass(frozen=True)
class Scan:
    """One node of a plan that reads the tasks table."""

    how: str
    index: str | None
    rows: int
    """Read, those it then dropped included."""
    buffers: int


@asynccontextmanager
async def rolled_back(queue: Queue) -> AsyncIterator[PoolConnectionProxy[Any]]:
    async with pool_of(queue).acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield connection
        finally:
            await transaction.rollback()


async def explain(
    connection: PoolConnectionProxy[Any], name: str, /, **values: Any
) -> tuple[list[Scan], int]:
    """Run a statement; what it read of the tasks table, and the pages it touched in all."""
    run = statement(name)
    text = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {run.text}"
    [explained] = json.loads(await connection.fetchval(text, *run.arguments(values)))
    scans: list[Scan] = []

    def walk(node: dict[str, Any]) -> None:
        if node.get("Relation Name") == "tasks" and node["Node Type"] != "ModifyTable":
            dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            rows = round((node["Actual Rows"] + dropped) * node["Actual Loops"])
            scans.append(Scan(node["Node Type"], node.get("Index Name"), rows, pages(node)))
        for child in node.get("Plans", []):
            walk(child)

    walk(explained["Plan"])
    return scans, pages(explained["Plan"])


def pages(node: dict[str, Any]) -> int:
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])
