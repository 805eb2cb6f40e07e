"""The configuration of a live app is changed while a dispatch runs: nothing is lost, nothing is run twice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from ruamel.yaml import YAML

from organism_flows.blocks.queue import NewTask, Queue
from tests.support.history import check_history
from tests.support.sql import pool_of
from tests.support.stack import CONFIG, Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack]


class Deployed:
    """The stack's organism under other configurations.

    Args:
        stack: The running stack.
        folder: Where to write them.
    """

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._stack = stack
        self._file = folder / "organism.yaml"

    async def up(self, *organs: dict[str, Any], code: int = 0) -> Any:
        """`organism up` with the stack's own configuration and some more organs."""
        config = YAML(typ="safe").load(CONFIG.read_text())
        config["organs"] += organs
        config["python_path"] = [str(CONFIG.parent)]
        with self._file.open("w") as file:
            YAML(typ="safe").dump(config, file)
        return await self._up(self._file, code)

    async def restore(self) -> None:
        """`organism up` with the stack's own configuration."""
        await self._up(CONFIG, 0)

    async def _up(self, config: Path, code: int) -> Any:
        process = self._stack.start("up", "--json", env={"ORGANISM_CONFIG": str(config)})
        return await asyncio.to_thread(self._stack.finish, process, code=code)


@pytest.fixture
async def deployed(stack: Stack, tmp_path: Path) -> AsyncIterator[Deployed]:
    deployed = Deployed(stack, tmp_path)
    yield deployed
    await deployed.restore()


def organ(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "task_types": [name], "handler": "evidence_handlers:leave_evidence", **more}


@pytest.mark.soak
async def test_organs_come_move_and_go_under_load(
    stack: Stack, stack_queue: Queue, deployed: Deployed
) -> None:
    evidence = stack.home / f"evidence-{uuid4().hex}"
    evidence.touch()
    os.chmod(evidence, 0o666)

    async def submit(kind: str, count: int) -> list[str]:
        task = NewTask(type=kind, params={"seconds": 0.05, "file": str(evidence)})
        return [str(i) for i in await stack_queue.submit([task] * count)]

    ids = await submit("evidence", 3000)
    dispatch = stack.start("dispatch", "--max-seconds", "600")
    try:
        await until(lambda: evidence.stat().st_size)
        await deployed.up(organ("later"))  # in place
        ids += await submit("later", 200)
        await deployed.up(organ("later", deployment={"num_cpus": 0.01}))  # replaces the replicas
        ids += await submit("later", 200)
        refused = await deployed.up(organ("later", handler="evidence_handlers:leave_evidense"), code=1)
        assert "has no leave_evidense; did you mean leave_evidence?" in refused["error"]
        ids += await submit("later", 50)
        await until(lambda: done(stack_queue, ids), patience=120)
    finally:
        dispatch.terminate()
        await asyncio.to_thread(dispatch.communicate)
    await check_history(stack_queue, ids, evidence)
    organs = await pool_of(stack_queue).fetch("SELECT type, count(*) AS n FROM tasks GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in organs] == [("evidence", 3000), ("later", 450)]
    failed = await pool_of(stack_queue).fetch("SELECT DISTINCT cause FROM task_attempts")
    assert {row["cause"] for row in failed} <= {"interrupted", "replica_lost", "unavailable"}, (
        "nobody was charged"
    )


async def done(queue: Queue, ids: list[str]) -> bool:
    return (await queue.reader.counts())["completed"] == len(ids)
