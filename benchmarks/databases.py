"""One queue on one Postgres, and two queues on two: what a queue costs when there are more of them.

No lanes and no organism: claims and settlements, by the program `benchmarks.peers.floor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from benchmarks.costs import used_by_tree
from benchmarks.figures import Unmeasured
from benchmarks.peers.drained import READY
from benchmarks.stack import LOAD_TIMEOUT_S, ROOT, Stack, allow, line_of, load, new_home, program
from organism_flows.blocks.queue import migrate
from organism_flows.deployments.stack.child_environment import postgres_environment
from organism_flows.deployments.stack.postgres.server import STOP_SIGNAL, EmbeddedPostgres

LOOPS = 1
"""Connections that claim and settle, on each database."""
SIZE = 1000
"""Tasks of a claim."""


@dataclass(frozen=True, slots=True)
class Database:
    """A database with our tables, and the process of its server."""

    dsn: str
    server: int


async def measure(stack: Stack, tasks: int) -> list[dict[str, Any]]:
    """Drain ``tasks`` tasks on the server of the stack, and then half of them there and half on another."""
    own = Database(stack.state.dsn, stack.state.processes["postgres"].pid)
    async with another_server(stack) as other:
        return [await drain(stack, databases, tasks) for databases in ([own], [own, other])]


@asynccontextmanager
async def another_server(stack: Stack) -> AsyncIterator[Database]:
    """Start one more embedded Postgres, with our tables, and remove it with its data at the end."""
    home = new_home()
    server = EmbeddedPostgres(home, f"{stack.state.stack_id}-2")
    child = await server.start(postgres_environment(stack.state))
    try:
        await server.wait_ready(child)
        await migrate(server.dsn())
        await allow(server.dsn())
        yield Database(server.dsn(), child.process.pid)
    finally:
        child.process.send_signal(STOP_SIGNAL)
        await asyncio.to_thread(child.process.wait)
        shutil.rmtree(home, ignore_errors=True)


async def drain(stack: Stack, databases: list[Database], tasks: int) -> dict[str, Any]:
    """Drain ``tasks`` tasks, shared out equally, and return the rate and the processor time of a task."""
    share = tasks // len(databases)
    for each in databases:
        connection = await asyncpg.connect(each.dsn)
        await connection.execute("TRUNCATE tasks, lanes CASCADE", timeout=LOAD_TIMEOUT_S)
        await load(connection, share)
        await connection.close()
    clients = [await client(stack, each, share) for each in databases]
    try:
        for one in clients:
            if not await line_of(output(one), READY):
                raise Unmeasured(f"a program that claims and settles ended with {await one.wait()}")
        servers = [each.server for each in databases]
        before = [used_by_tree(pid) for pid in (*servers, *[one.pid for one in clients])]
        began = time.perf_counter()
        for one in clients:
            assert one.stdin
            one.stdin.write(b"\n")
        reports = [json.loads(await line_of(output(one), "{") or "null") for one in clients]
        seconds = time.perf_counter() - began
        after = [used_by_tree(pid) for pid in (*servers, *[one.pid for one in clients])]
        for one in clients:
            await one.communicate(b"\n")
    finally:
        for one in clients:
            with contextlib.suppress(ProcessLookupError):
                one.terminate()
    if None in reports:
        raise Unmeasured("a program that claims and settles ended before its report")
    used = [1e6 * (end - start) / tasks for start, end in zip(before, after, strict=True)]
    stack.say(f"{len(databases)} databases: {tasks / seconds:,.0f} tasks/s")
    return {
        "databases": len(databases),
        "rate": tasks / seconds,
        "postgres_us": sum(used[: len(servers)]),
        "client_us": sum(used[len(servers) :]),
    }


async def client(stack: Stack, database: Database, tasks: int) -> Process:
    """Start the program that claims and settles on one database."""
    command = [*program("floor", foreign=False), "--dsn", database.dsn, "--tasks", str(tasks)]
    return await asyncio.create_subprocess_exec(
        *command, f"--loops={LOOPS}", f"--size={SIZE}", env=stack.env, cwd=ROOT, stdin=PIPE, stdout=PIPE
    )


def output(process: Process) -> asyncio.StreamReader:
    """Return what a process prints."""
    assert process.stdout
    return process.stdout
