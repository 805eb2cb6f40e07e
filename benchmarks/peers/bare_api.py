"""A bare FastAPI and asyncpg endpoint that does what the gateway does: no limits, no errors told, no door.

What the gateway could reach if what it promises beyond the statement cost nothing.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from uuid_utils.compat import uuid7

from organism_flows.blocks.queue.db.session import Session
from organism_flows.blocks.queue.stores.task_rows import as_columns

CONNECTIONS = 4
"""As many as the gateway has."""
READ = """
SELECT t.*, coalesce(t.max_attempts, policy.max_attempts, $2) AS attempts_allowed,
       (SELECT json_agg(made ORDER BY made.claim)::text
        FROM (SELECT claim, attempt, lane, cause, error, started_at, ended_at
              FROM task_attempts WHERE task_id = t.id) made) AS attempts_made
FROM tasks t LEFT JOIN task_types policy USING (type)
WHERE id = $1
"""
"""What the gateway reads by a function, whose plan takes longer and suits a table of any size."""


class NewTask(BaseModel):
    """Columns of a new task."""

    type: str
    params: dict[str, Any] = {}
    description: str | None = None
    domain: str | None = None
    drift_score: float = 0.0
    priority: int = 0
    run_after: datetime | None = None
    max_attempts: int | None = None
    timeout_s: float | None = None
    dedup_key: str | None = None
    key: str | None = None
    expires_at: datetime | None = None
    cost: float | None = None


class Added(BaseModel):
    """Ids of new tasks."""

    ids: list[UUID]


class Task(BaseModel):
    """Columns of a task."""

    id: UUID
    type: str
    description: str | None
    params: Any
    domain: str | None
    drift_score: float
    status: str
    attempts: int
    max_attempts: int | None
    claim: int
    priority: int
    dedup_key: str | None
    timeout_s: float | None
    cancel_requested: bool
    timed_out: int
    lease_lost: int
    suspicion: int
    locked_by: str | None
    locked_at: datetime | None
    run_after: datetime
    result: Any
    error: str | None
    organ_id: str | None
    path: str | None
    elapsed_ms: float | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    attempts_made: Any


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Holds the pool."""
    async with asyncpg.create_pool(os.environ["ORGANISM_DSN"], min_size=1, max_size=CONNECTIONS) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def ready() -> None:
    """Answers when the pool is there."""


@app.post("/one", status_code=201)
async def one(task: NewTask) -> Added:
    """Add a task."""
    return await add([task])


@app.post("/many", status_code=201)
async def many(tasks: list[NewTask]) -> Added:
    """Add tasks."""
    return await add(tasks)


async def add(tasks: Sequence[NewTask]) -> Added:
    """The gateway's own statement."""
    added = await Session(app.state.pool).fetch("submit", **as_columns([row_of(task) for task in tasks]))
    return Added(ids=[row["id"] for row in added])


def row_of(task: NewTask) -> tuple[Any, ...]:
    """Values of a task for the columns of that statement."""
    return (
        uuid7(), task.type, orjson.dumps(task.params).decode(), task.description, task.domain,
        task.drift_score, task.priority, task.run_after, task.max_attempts, task.timeout_s,
        task.dedup_key, "queued", task.key, task.expires_at, task.cost, None,
    )  # fmt: skip


@app.get("/task/{task_id}")
async def read(task_id: UUID) -> Task:
    """What the gateway reads."""
    row = await app.state.pool.fetchrow(READ, task_id, 5)
    if row is None:
        raise HTTPException(404)
    columns = {
        name: orjson.loads(value) if name in ("params", "result", "attempts_made") and value else value
        for name, value in row.items()
    }
    return Task(**columns)
