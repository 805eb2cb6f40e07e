"""verify, while parts of a real stack are broken one after the other: it names the part and what to do."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.deployments.stack.health import bearer
from tests.support.sql import pool_of
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack, pytest.mark.soak]


async def verify(stack: Stack, *arguments: str, code: int, **env: str) -> dict[str, Any]:
    """What `organism verify` finds, by check; it is to end with ``code``."""
    process = stack.start("verify", "--json", *arguments or ("--no-canary",), env=env)
    found = await asyncio.to_thread(stack.finish, process, code=code)
    worst = {0: "ok", 1: "degraded", 2: "failed"}[code]
    assert found["status"] == worst
    for finding in found["findings"]:
        assert bool(finding["action"]) == (finding["status"] != "ok"), finding
    return {finding["check"]: finding for finding in found["findings"]}


def failed(found: dict[str, Any]) -> set[str]:
    return {name for name, finding in found.items() if finding["status"] == "failed"}


@asynccontextmanager
async def without(stack: Stack, role: str) -> AsyncIterator[None]:
    """The stack with one part of it killed; afterwards it is there again."""
    parent = psutil.Process(stack.state.processes[role].pid)
    for process in [*parent.children(recursive=True), parent]:
        # Some of them end by themselves when another is killed.
        with suppress(psutil.NoSuchProcess):
            process.kill()
    try:
        yield
    finally:
        await asyncio.to_thread(stack.run, "up")


async def test_without_postgres(stack: Stack) -> None:
    async with without(stack, "postgres"):
        found = await verify(stack, code=2)
    # Prefect's server keeps its data there too.
    assert failed(found) == {"postgres: reachable", "gateway: routes", "prefect"}
    assert found["gateway: routes"]["action"] == "see postgres"
    assert "`organism up`" in found["postgres: reachable"]["action"]


async def test_without_prefect(stack: Stack) -> None:
    async with without(stack, "prefect"):
        found = await verify(stack, code=2)
    assert failed(found) == {"prefect: api"}
    assert found["prefect: api"]["action"] == "start or reach it"
    assert found["organism: health"]["status"] == "ok", "the others are asked all the same"


async def test_without_ray(stack: Stack) -> None:
    async with without(stack, "ray"):
        found = await verify(stack, code=2)
    assert failed(found) == {"ray", "serve"}
    assert found["ray"]["evidence"].startswith("no Ray at 127.0.0.1:")
    assert "`organism up`" in found["ray"]["action"]
    assert found["serve"]["evidence"] == "not asked: Ray cannot be reached"


async def test_without_the_application(stack: Stack) -> None:
    async with httpx.AsyncClient(trust_env=False, headers=bearer(stack.state.ray_token_path)) as client:
        url = f"{stack.state.ray_dashboard_url}/api/serve/applications/"
        (await client.delete(url)).raise_for_status()

        async def gone() -> bool:
            return not (await client.get(url)).json()["applications"]

        await until(gone)
    try:
        found = await verify(stack, code=2)
    finally:
        await asyncio.to_thread(stack.run, "up")
    assert failed(found) == {"serve: application"}
    assert found["serve: application"]["evidence"] == "there is no application 'organism'"
    assert found["serve: application"]["action"] == "deploy it: `organism up`"
    assert not failed(await verify(stack, code=1))


async def test_with_a_replica_that_hangs(stack: Stack) -> None:
    ray = psutil.Process(stack.state.processes["ray"].pid)
    [replica] = [p for p in ray.children(recursive=True) if "OrganismManager" in " ".join(p.cmdline())]
    replica.send_signal(signal.SIGSTOP)
    found = await verify(stack, code=2)
    # Serve has seen it meanwhile, or has not.
    assert (
        found["organism: health"]["status"] == "failed" or found["serve: OrganismManager"]["status"] != "ok"
    )
    await until(lambda: not replica.is_running(), patience=60)
    await asyncio.to_thread(stack.run, "up")


async def test_with_a_migration_to_be_applied(stack: Stack, stack_queue: Queue) -> None:
    newest = await pool_of(stack_queue).fetchval("SELECT version_num FROM organism_migrations")
    await pool_of(stack_queue).execute("UPDATE organism_migrations SET version_num = '0002'")
    try:
        found = await verify(stack, code=2)
    finally:
        await pool_of(stack_queue).execute("UPDATE organism_migrations SET version_num = $1", newest)
    assert failed(found) == {"postgres: migrated"}
    assert "`organism migrate`" in found["postgres: migrated"]["action"]


async def test_with_work_that_nobody_does(stack: Stack, stack_queue: Queue) -> None:
    await stack_queue.submit([NewTask(type="echo")])
    await pool_of(stack_queue).execute("INSERT INTO tasks (type, status) VALUES ('echo', 'failed')")
    stack.run("tasks", "pause", "--type", "echo", "--reason", "bad release")
    try:
        found = await verify(stack, "--dead-letters", "0", code=1)
    finally:
        stack.run("tasks", "resume", "--type", "echo")
    actions = {name: finding["action"] for name, finding in found.items() if finding["status"] == "degraded"}
    assert "`organism redrive`" in actions["queue: dead letters"]
    assert "`organism tasks resume --type echo`" in actions["queue: paused"]
    assert "`organism dispatch`" in actions["lanes: alive"]
    assert "`organism dispatch`" in actions["canary"]


async def test_with_versions_that_do_not_go_together(stack: Stack, tmp_path: Path) -> None:
    newer = tmp_path / "fastapi-0.151.0.dist-info"
    newer.mkdir()
    (newer / "METADATA").write_text("Metadata-Version: 2.1\nName: fastapi\nVersion: 0.151.0\n")
    path = f"{tmp_path}:{stack.env.get('PYTHONPATH', '')}"
    found = await verify(stack, code=2, PYTHONPATH=path)
    assert failed(found) == {"environment: versions"}
    assert "prefect 3.8.8 does not work with fastapi 0.151.0" in found["environment: versions"]["evidence"]
