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
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from benchmarks.figures import Unmeasured
from benchmarks.peers.drained import PAYLOAD
from organism_flows.blocks.access_token import own_headers
from organism_flows.blocks.settings import Settings
from organism_flows.blocks.stack_state import StackState, environment_of, read_stack

HERE = Path(__file__).parent
ROOT = HERE.parent
PEERS_PYTHON = HERE / ".venv" / "bin" / "python"
PATIENCE_S = 120.0
LOAD_TIMEOUT_S = 600.0


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
        process = self.start(*arguments, "--json")
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
        await self.db.execute("TRUNCATE tasks, lanes, task_attempts")
        await self.db.execute("CHECKPOINT", timeout=LOAD_TIMEOUT_S)

    async def load(self, tasks: int, type: str = "bench.noop", params: Any = PAYLOAD) -> None:
        """Add ready tasks, and let the planner know of them."""
        await self.db.execute(
            "INSERT INTO tasks (type, params) SELECT $1, $2::text::jsonb FROM generate_series(1, $3)",
            type,
            json.dumps(params),
            tasks,
            timeout=LOAD_TIMEOUT_S,
        )
        await self.db.execute("ANALYZE tasks", timeout=LOAD_TIMEOUT_S)
        await self.db.execute("CHECKPOINT", timeout=LOAD_TIMEOUT_S)

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
        """Process id of the only replica."""
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
        """Run a module of `benchmarks.peers` and return what it reports.

        Args:
            foreign: In the environment of the peers, not in this project's.
        """
        python = str(PEERS_PYTHON) if foreign else sys.executable
        command = [python, "-m", f"benchmarks.peers.{name}", "--dsn", dsn, "--tasks", str(tasks)]
        for option, value in settings.items():
            command += [f"--{option}", str(value)]
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self.env,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()
        if process.returncode != 0:
            raise Unmeasured(f"{name} {settings} ended with {process.returncode}: {err.decode()[-1500:]}")
        report = json.loads(out.decode().splitlines()[-1])
        self.say(f"{name} {settings or ''}: {report['rate']:,.0f} tasks/s")
        return report


@asynccontextmanager
async def running_stack(say: Callable[[str], None]) -> AsyncIterator[Stack]:
    """Start a stack, and remove it with its data at the end."""
    stack = Stack(Path(tempfile.mkdtemp(prefix="organism-bench-")), say)
    try:
        say("starting the stack")
        await stack.run("up")
        stack.db = await asyncpg.connect(stack.state.dsn)
        stack.join()
        yield stack
        await stack.db.close()
    finally:
        await asyncio.to_thread(stack.start("down").communicate)
        shutil.rmtree(stack.home, ignore_errors=True)


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
