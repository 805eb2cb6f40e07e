"""bootstrap finishes the job wherever it was killed, twice at once too, and leaves others' lanes alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import psutil
import pytest
from prefect.client.orchestration import get_client

from organism_flows.blocks.errors import QueueUnavailable
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import wait_for_postgres
from organism_flows.blocks.queue.db.migrate import MIGRATION_LOCK
from organism_flows.flows.bootstrap import STEPS, some_lane
from organism_flows.flows.lanes.lane import Lane
from organism_flows.flows.prefect_support.schedules import ours
from tests.support.flows.deployments import OURS
from tests.support.proxy import proxied
from tests.support.scripted_organism import ScriptedOrganism
from tests.support.sql import pool_of
from tests.support.stack import PATIENCE, Stack, until

pytestmark = pytest.mark.anyio


async def test_it_waits_until_postgres_lets_it_in(database: str) -> None:
    told: list[str] = []
    async with proxied(database) as proxy:
        proxy.refuse()

        def say(why: str) -> None:
            told.append(why)
            proxy.accept()

        await wait_for_postgres(proxy.dsn, within_s=30, on_wait=say)
    assert len(told) == 1
    assert "cannot reach Postgres at 127.0.0.1" in told[0]


async def test_it_waits_for_a_postgres_that_is_away_no_longer_than_told() -> None:
    told: list[str] = []
    with pytest.raises(QueueUnavailable, match=r"cannot reach Postgres at 127\.0\.0\.1:9/none"):
        await wait_for_postgres("postgresql://127.0.0.1:9/none", within_s=0.1, on_wait=told.append)
    assert len(told) == 1


async def test_it_does_not_wait_for_a_wrong_database_to_become_right(database: str) -> None:
    wrong = database.replace("/test_", "/not_")
    assert wrong != database
    with pytest.raises(QueueUnavailable, match="create that database"):
        await wait_for_postgres(wrong, within_s=3600, on_wait=pytest.fail)


class Own:
    """A lane of our own, as `some_lane` is to run it."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.run = f"own-{uuid4().hex}"
        self.started = 0

    async def __call__(self, runs: list[str]) -> None:
        self.started += 1
        runs.append(self.run)
        await Lane(self.queue, ScriptedOrganism(), run=self.run).run()


async def test_only_its_own_lane_is_stopped(queue: Queue) -> None:
    own = Own(queue)
    async with some_lane(queue, own):
        assert [lane.run for lane in await queue.reader.lanes()] == [own.run]
        # As somebody starts one meanwhile.
        await queue.leases.register("theirs", run="theirs")
    [theirs] = await queue.reader.lanes()
    assert (theirs.id, theirs.stop_requested) == ("theirs", False)


async def test_where_a_lane_lives_none_is_started(queue: Queue) -> None:
    await queue.leases.register("theirs", run="theirs")
    own = Own(queue)
    async with some_lane(queue, own):
        pass
    assert own.started == 0


async def test_a_lease_that_a_dead_lane_left_does_not_pass_for_a_lane_for_long(queue: Queue) -> None:
    await queue.leases.register("dead", run="killed")
    own = Own(queue)
    async with some_lane(queue, own):
        await pool_of(queue).execute(
            "UPDATE lanes SET lease_until = queue_now() - interval '1 s' WHERE id = 'dead'"
        )

        async def own_lives() -> bool:
            return any(lane.run == own.run and lane.live for lane in await queue.reader.lanes())

        await until(own_lives)
    assert own.started == 1


async def test_a_lane_that_cannot_be_started_says_why(queue: Queue) -> None:
    async def refuses(runs: list[str]) -> None:
        raise QueueUnavailable("no such luck")

    with pytest.raises(QueueUnavailable, match="no such luck"):
        async with some_lane(queue, refuses):
            pytest.fail("there is no lane")


# From here on on the real stack.


@pytest.fixture
async def fresh(stack: Stack) -> AsyncIterator[str]:
    """URL of a database on the stack's Postgres with no table in it."""
    name = f"fresh_{uuid4().hex}"
    admin = await asyncpg.connect(stack.state.dsn)
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    yield urlsplit(stack.state.dsn)._replace(path=f"/{name}").geturl()
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


def bootstrap(stack: Stack, *arguments: str, **env: str) -> subprocess.Popen[str]:
    return stack.start("bootstrap", *arguments, "--json", env=env)


def finished(stack: Stack, process: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    """The steps of a bootstrap that ends well, by name."""
    done = stack.finish(process)
    assert [step["step"] for step in done["steps"]] == list(STEPS)
    return {step["step"]: step for step in done["steps"]}


async def kill(process: subprocess.Popen[str]) -> None:
    assert process.poll() is None, process.communicate()
    process.kill()
    await asyncio.to_thread(process.communicate)


async def canaries(dsn: str) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch("SELECT status::text, attempts FROM tasks WHERE domain = 'canary'")
    finally:
        await connection.close()


@pytest.mark.stack
@pytest.mark.soak
async def test_killed_while_it_migrates(stack: Stack, fresh: str) -> None:
    # Who holds the lock holds up every migration.
    holder = await asyncpg.connect(fresh)
    await holder.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
    process = bootstrap(stack, ORGANISM_DSN=fresh)

    async def migrating() -> Any:
        return await holder.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid()"
        )

    await until(migrating)
    await kill(process)
    await holder.close()
    done = await asyncio.to_thread(finished, stack, bootstrap(stack, ORGANISM_DSN=fresh))
    assert done["postgres"]["found"].startswith("migrated: v0001")
    assert [tuple(row) for row in await canaries(fresh)] == [("completed", 1)]
    again = await asyncio.to_thread(finished, stack, bootstrap(stack, ORGANISM_DSN=fresh))
    assert not any(step["changed"] for step in again.values())


@contextmanager
def slow_to_import(stack: Stack, folder: Path) -> Iterator[tuple[Path, Path, Path]]:
    """A configuration with a handler that is being imported until told; afterwards the tests' own again."""
    importing, sign = folder / "importing", folder / "sign"
    (folder / "slow_to_import.py").write_text(
        "import time, pathlib\n"
        f"pathlib.Path({str(importing)!r}).touch()\n"
        f"while not pathlib.Path({str(sign)!r}).exists(): time.sleep(0.05)\n"
        "def handle(task): return {}\n"
    )
    config = folder / "organism.yaml"
    config.write_text(
        "organs: [{id: x, kind: actuator, task_types: [x], handler: 'slow_to_import:handle'}]\n"
    )
    try:
        yield config, importing, sign
    finally:
        sign.touch()
        stack.run("up")


@pytest.mark.stack
@pytest.mark.soak
async def test_killed_while_it_deploys_the_organism(stack: Stack, stack_queue: Queue, tmp_path: Path) -> None:
    with slow_to_import(stack, tmp_path) as (config, importing, sign):
        process = bootstrap(stack, "--config", str(config))
        await until(importing.exists)
        await kill(process)
        process = bootstrap(stack, "--config", str(config))
        sign.touch()
        done = await asyncio.to_thread(finished, stack, process)
        again = await asyncio.to_thread(finished, stack, bootstrap(stack, "--config", str(config)))
    assert "healthy" in done["organism"]["found"]
    assert again["organism"] == {
        "step": "organism",
        "changed": False,
        "found": "runs as configured, healthy",
    }


def child_of(process: subprocess.Popen[str], *words: str) -> bool:
    """Whether it has a process with these words on its command line."""
    with_words = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            line = child.cmdline()
        except psutil.Error:
            continue
        if set(words) <= set(line):
            with_words.append(child)
    return bool(with_words)


@pytest.mark.stack
@pytest.mark.soak
async def test_killed_while_it_applies_deployments(stack: Stack, stack_queue: Queue) -> None:
    await delete_deployments()
    process = bootstrap(stack)
    await until(lambda: child_of(process, "prefect", "deploy"))
    await kill(process)
    done = await asyncio.to_thread(finished, stack, bootstrap(stack))
    assert not done["postgres"]["changed"]
    assert await deployed() == OURS


async def delete_deployments() -> None:
    # Not by plain requests: the server may say that its database is locked, and wants to be asked again.
    async with get_client() as client:
        for deployment in (await ours(client)).values():
            await client.delete_deployment(deployment.id)


async def deployed() -> set[str]:
    async with get_client() as client:
        return set(await ours(client))


@pytest.mark.stack
@pytest.mark.soak
async def test_killed_while_its_canary_is_under_way(stack: Stack, stack_queue: Queue) -> None:
    process = bootstrap(stack)

    async def own_lane() -> bool:
        return bool(await stack_queue.reader.lanes())

    await until(own_lane)
    await kill(process)
    done = await asyncio.to_thread(finished, stack, bootstrap(stack))
    assert done["canary"]["found"].startswith("completed")

    async def nobody_left() -> bool:
        await stack_queue.leases.reap()
        return await stack_queue.reader.lanes() == [] and (await stack_queue.reader.counts())["running"] == 0

    await until(nobody_left)


@pytest.mark.stack
@pytest.mark.soak
async def test_two_at_once(stack: Stack, fresh: str) -> None:
    await delete_deployments()
    both = [bootstrap(stack, ORGANISM_DSN=fresh) for _ in range(2)]
    for process in both:
        await asyncio.to_thread(finished, stack, process)
    assert [tuple(row) for row in await canaries(fresh)] == [("completed", 1)] * 2
    assert await deployed() == OURS


@pytest.mark.stack
@pytest.mark.soak
async def test_it_waits_for_a_postgres_that_is_only_coming_up(stack: Stack, stack_queue: Queue) -> None:
    os.kill(stack.state.processes["postgres"].pid, signal.SIGKILL)
    process = bootstrap(stack)
    assert process.stderr is not None
    seen = ""
    deadline = time.monotonic() + PATIENCE
    while "waiting up to 120 s for Postgres" not in seen:
        line = await asyncio.to_thread(process.stderr.readline)
        assert line, seen
        assert time.monotonic() < deadline, seen
        seen += line
    await asyncio.to_thread(stack.run, "up")
    done = await asyncio.to_thread(finished, stack, process)
    assert done["postgres"]["found"] == "every migration is applied"


@pytest.mark.stack
async def test_without_ray_it_says_on_one_line_how_to_start_it(stack: Stack) -> None:
    process = bootstrap(stack, RAY_ADDRESS="127.0.0.1:9")
    out, _ = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    said = json.loads(out)
    assert process.returncode == 1
    assert said["error"].startswith("no Ray at 127.0.0.1:9: ")
    assert said["next_step"].startswith("start it (`organism up`, or your own cluster)")
