"""The whole embedded stack as a fixture, started once a session with an organism of the tests' own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.local_stack.stack_state import StackState, environment_of, read_secret, read_stack
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.settings import Settings
from tests.support.history import install_history
from tests.support.sql import pool_of

PATIENCE = 180
"""Seconds; only a deadline for a machine that hangs."""
CONFIG = Path(__file__).parents[1] / "organism" / "organism.yaml"


class Stack:
    """A running stack, and the `organism` command on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {
            **os.environ,
            "ORGANISM_HOME": str(home),
            "ORGANISM_CONFIG": str(CONFIG),
            # Nothing is to run that no test has started.
            "ORGANISM_WORKER": "false",
            # Short, so that what a dead lane held comes back while somebody waits for it.
            "ORGANISM_LEASE_SECONDS": "3",
            # What one replica holds, and what its death does, is then the same on every machine.
            "ORGANISM_REPLICAS": "1",
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",
            "PREFECT_FLOWS": '{"heartbeat_frequency": null}',
        }

    @property
    def state(self) -> StackState:
        state = read_stack(self.home)
        assert state is not None
        return state

    @property
    def headers(self) -> dict[str, str]:
        """Those that carry the token of the stack."""
        return dict(own_headers(Settings(home=self.home)))

    @property
    def prefect_api(self) -> str:
        """URL of the Prefect API, with the login in it."""
        return prefect_api(self.state)

    def start(
        self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start an `organism` command in a folder, or the stack's, with more in its environment."""
        return subprocess.Popen(
            [sys.executable, "-m", "organism_flows.deployments.cli.main", *arguments],
            env={**self.env, **(env or {})},
            cwd=cwd or self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, cwd: Path | None = None) -> Any:
        """Run an `organism` command with ``--json`` and return what it prints."""
        return self.finish(self.start(*arguments, "--json", cwd=cwd), code=code)

    def finish(self, process: subprocess.Popen[str], *, code: int = 0) -> Any:
        """Wait for a command started with ``--json`` and return what it prints."""
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        try:
            return json.loads(out)
        except json.JSONDecodeError:
            raise AssertionError(f"not JSON: {out!r}\n{err}") from None


def prefect_api(state: StackState) -> str:
    """URL of the Prefect API of a stack, with the login in it, for httpx."""
    return state.prefect_api_url.replace("://", f"://{read_secret(state.prefect_secret_path)}@")


@contextmanager
def prefect_of(state: StackState) -> Iterator[None]:
    """Point this process's Prefect at a stack, whatever it read from the environment when it was imported."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    secret = read_secret(state.prefect_secret_path)
    with temporary_settings({PREFECT_API_URL: state.prefect_api_url, PREFECT_API_AUTH_STRING: secret}):
        yield


@pytest.fixture(scope="session")
def running_stack() -> Iterator[Stack]:
    """A real Postgres, Ray with the tests' organism, and Prefect server."""
    home = Path(tempfile.mkdtemp(prefix="organism-stack-"))
    home.chmod(0o711)
    stack = Stack(home)
    try:
        stack.run("up")
        yield stack
    finally:
        if ray := sys.modules.get("ray"):
            # Ray ends a process that has lost its cluster for a minute: other tests may take longer.
            ray.shutdown()
        stack.run("down")
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def stack(running_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """The running stack, with this process pointed at it for the length of a test."""
    state = running_stack.state
    for name, value in environment_of(state).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ORGANISM_HOME", str(running_stack.home))
    monkeypatch.setenv("ORGANISM_LEASE_SECONDS", "3")
    with prefect_of(state):
        yield running_stack


@pytest.fixture
async def stack_queue(stack: Stack) -> AsyncIterator[Queue]:
    """The stack's queue, empty, with every change of a task's status recorded."""
    async with Queue(stack.state.dsn) as queue:
        await pool_of(queue).execute("TRUNCATE tasks, lanes CASCADE")
        await install_history(queue)
        yield queue


async def until(condition: Callable[[], Any], *, patience: float = 60) -> Any:
    """Wait until ``condition()``, awaited if need be, is true, and return it."""
    deadline = time.monotonic() + patience
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.05)
