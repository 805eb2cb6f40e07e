"""docs/how-to/long-tasks.md does what it says."""

from __future__ import annotations

import asyncio
import json
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.lanes.lane import Lane
from organism_flows.serve_apps.organism.config import load_config
from organism_flows.serve_apps.organism.handler_api.context import STATE_LIMIT_BYTES
from tests.support.local_organism import LocalOrganism
from tests.support.page import Page
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio
PAGE = Page("how-to/long-tasks.md")


async def test_the_example_continues_where_the_page_says(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PAGE.write(tmp_path, ("python", "long_handlers.py"), ("yaml", "organism.yaml"))
    monkeypatch.syspath_prepend(str(tmp_path))
    organism = LocalOrganism(load_config(tmp_path / "organism.yaml").model_dump(mode="json"))
    module: Any = import_module("long_handlers")
    died, go_on = threading.Event(), threading.Event()

    def draw(frame: int) -> None:
        if frame == 4 and not died.is_set():
            died.set()
            go_on.wait(60)

    monkeypatch.setattr(module, "draw", draw)
    # Where it runs does not matter here, and a process would not be this one.
    for organ in organism.config["organs"]:
        organ["suspects"] = "replica"
    organism.kill()
    [task_id] = await queue.submit([NewTask(type="render", params={"frames": 10})])
    lane = asyncio.create_task(Lane(queue, organism, until_empty=True).run())
    await until(died.is_set)
    query = PAGE.block("sql")
    row = await until(lambda: _with_step(queue, query, 4))
    assert (row["fraction"], row["note"]) == (0.4, "frame 4")
    organism.kill()
    go_on.set()
    await asyncio.wait_for(lane, 120)
    task = await queue.get(str(task_id))
    assert task.result == json.loads(PAGE.block("json"))
    assert task.attempts == 1
    assert task.progress is not None
    assert task.progress.fraction == 1.0


async def _with_step(queue: Queue, query: str, step: int) -> Any:
    row = await pool_of(queue).fetchrow(query)
    return row if row and row["step"] == step else None


def test_the_limit_is_the_one_of_the_code() -> None:
    assert f"at most {STATE_LIMIT_BYTES:,} bytes" in PAGE.text
