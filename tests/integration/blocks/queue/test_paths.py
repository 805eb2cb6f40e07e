"""Keys and costs from params: in every way in, refused at the door where they make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import NewTask, Queue, TypePolicy
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio
POLICY = TypePolicy(type="t", key_path="params.customer.id", cost_path="params.tokens")


async def found(queue: Queue) -> list[tuple[Any, ...]]:
    rows = await pool_of(queue).fetch("SELECT key, cost FROM tasks ORDER BY id")
    return [tuple(row) for row in rows]


async def test_every_way_in_reads_the_paths_of_the_policy(queue: Queue, tmp_path: Path) -> None:
    await queue.operator.set_policy(POLICY)
    assert await queue.operator.policies() == [POLICY]
    params = {"customer": {"id": "acme"}, "tokens": 7}
    await queue.submit(
        [NewTask(type="t", params=params), NewTask(type="t", params=params, key="own", cost=1)]
    )
    await queue.producer.load([NewTask(type="t", params=params)])
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"type": "t", "params": {"customer": {"id": 12}, "tokens": 0}}\n')
    await queue.producer.load_files([file])
    await pool_of(queue).execute(
        """INSERT INTO tasks (type, params)
           SELECT type, '{"customer": {"id": "z"}}' FROM unnest(ARRAY['t', 'other']) type"""
    )
    assert await found(queue) == [
        ("acme", 7), ("own", 1), ("acme", 7), ("12", 0), ("z", None), (None, None)
    ]  # fmt: skip


async def test_a_path_that_leads_nowhere_means_no_key(queue: Queue) -> None:
    await queue.operator.set_policy(POLICY)
    nowhere: list[Any] = [None, {}, {"id": None}, {"name": "acme"}, "acme", [], 3]
    await queue.submit([NewTask(type="t", params={"customer": customer}) for customer in nowhere])
    assert await found(queue) == [(None, None)] * len(nowhere)


BAD: list[dict[str, Any]] = [
    {"customer": {"id": ["a", "b"]}},
    {"customer": {"id": {"a": 1}}},
    {"customer": {"id": True}},
    {"customer": {"id": ""}},
    {"customer": {"id": "x" * 10_000}},
    {"tokens": "many"},
    {"tokens": [1]},
    {"tokens": -1},
    {"tokens": 1e16},
]


async def test_what_is_no_key_or_cost_is_refused_by_name(queue: Queue, tmp_path: Path) -> None:
    await queue.operator.set_policy(POLICY)
    for params in BAD:
        tasks = [NewTask(type="t", params={}), NewTask(type="t", params=params)]
        path = "params.tokens" if "tokens" in params else "params.customer.id"
        file = tmp_path / "tasks.jsonl"
        file.write_text("".join(json.dumps({"type": "t", "params": task.params}) + "\n" for task in tasks))
        for add in (queue.submit, queue.producer.load, lambda _, f=file: queue.producer.load_files([f])):
            with pytest.raises(ConfigurationError, match=f"of a task of type t is in its {path}") as wrong:
                await add(tasks)
            assert len(wrong.value.what) < 200
        with pytest.raises(asyncpg.CheckViolationError):
            await pool_of(queue).execute(
                "INSERT INTO tasks (type, params) VALUES ('t', $1::text::jsonb)", json.dumps(params)
            )
    assert await found(queue) == []


async def test_a_nul_reaches_no_key(queue: Queue) -> None:
    await queue.operator.set_policy(POLICY)
    with pytest.raises(ValidationError):
        NewTask(type="t", params={"customer": {"id": "a\0b"}})
    with pytest.raises(asyncpg.UntranslatableCharacterError):
        await pool_of(queue).execute(
            """INSERT INTO tasks (type, params) VALUES ('t', '{"customer": {"id": "a\\u0000b"}}')"""
        )


def test_a_path_that_is_none_is_refused() -> None:
    for path in ("customer", "params", "params.", "params..id", "param.id", "params." + "x" * 200):
        with pytest.raises(ValidationError):
            TypePolicy(type="t", key_path=path)


async def test_without_paths_no_row_calls_a_function(queue: Queue) -> None:
    """The function would raise, were it called."""
    await queue.operator.set_policy(TypePolicy(type="t", cost=2))
    await pool_of(queue).execute(
        "CREATE OR REPLACE FUNCTION tasks_read_paths() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RAISE EXCEPTION ''called''; END'"
    )
    await queue.submit([NewTask(type="t", params={"customer": {"id": "a"}})])
    await queue.producer.load([NewTask(type="t", params={"customer": {"id": "a"}})])
    await queue.operator.set_policy(POLICY)
    with pytest.raises(asyncpg.PostgresError, match="called"):
        await queue.submit([NewTask(type="t")])
