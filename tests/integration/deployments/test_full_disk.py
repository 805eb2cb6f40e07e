"""The disk of a stack fills up for real, is freed again, and everything goes on with no task lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from tests.support.stack import Stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack("own"), pytest.mark.soak]

PATIENCE = 120


class Disk:
    """A small disk, which can be filled and freed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filling = folder / "filling"

    def fill(self) -> None:
        with suppress(OSError), self._filling.open("ab", buffering=0) as file:
            while True:
                # What is left at last is less than a page of Postgres.
                file.write(bytes(min(1_000_000, max(4096, shutil.disk_usage(self.folder).free))))

    def free(self) -> None:
        self._filling.unlink()


@pytest.fixture(params=["postgres", "."])
def stack(request: pytest.FixtureRequest) -> Iterator[tuple[Stack, Disk]]:
    """A stack whose folder, or that of its Postgres alone, is a small disk."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    home = Path(tempfile.mkdtemp(prefix="organism-disk-"))
    home.chmod(0o711)
    folder = home / request.param
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500m,mode=711", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        shutil.rmtree(home)
        pytest.skip(f"cannot mount a disk: {mounted.stderr.decode().strip()}")
    stack = Stack(home)
    disk = Disk(folder)
    try:
        stack.run("up")
        yield stack, disk
    finally:
        with suppress(OSError):
            disk.free()
        stack.run("down")
        subprocess.run(["umount", "-l", folder], check=True)
        shutil.rmtree(home, ignore_errors=True)


async def ids_of(stack: Stack, status: str | None = None) -> set[str]:
    connection = await asyncpg.connect(stack.state.dsn)
    try:
        rows = await connection.fetch(
            "SELECT id::text FROM tasks WHERE $1::text IS NULL OR status::text = $1", status
        )
        return {row["id"] for row in rows}
    finally:
        await connection.close()


def last_line(process: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed says; it may say progress before."""
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    assert "defect" not in process.stderr
    return process.stderr.splitlines()[-1]


def organism(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    started = stack.start(*arguments)
    out, err = started.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(arguments, started.returncode, out, err)


async def submit_until_refused(http: httpx.AsyncClient, accepted: set[str]) -> dict[str, Any]:
    """Submit over HTTP until the gateway refuses, and return what it says."""
    order = [{"type": "echo", "params": {"text": "x" * 2000 * n}} for n in range(20)]
    while True:
        answer = await http.post("/api/tasks", json=order)
        if answer.status_code != 201:
            assert answer.status_code == 503, answer.text
            problem: dict[str, Any] = answer.json()
            return problem
        accepted |= {task["id"] for task in answer.json()["tasks"]}


async def test_a_disk_that_was_full_costs_no_task(stack: tuple[Stack, Disk]) -> None:
    stack_, disk = stack
    dispatch = stack_.start("dispatch", "--json")
    accepted: set[str] = set()
    url = stack_.state.gateway_url
    try:
        async with httpx.AsyncClient(
            base_url=url, headers=stack_.headers, timeout=60, trust_env=False
        ) as http:

            async def completed() -> bool:
                with suppress(OSError, asyncpg.PostgresError):
                    return await ids_of(stack_, "completed") >= accepted
                return False

            answer = await http.post("/api/tasks", json=[{"type": "echo"}] * 50)
            accepted |= {task["id"] for task in answer.json()["tasks"]}
            await until(completed, patience=PATIENCE)

            disk.fill()
            problem = await submit_until_refused(http, accepted)
            assert "No space left on device" in problem["detail"]
            assert problem["next_step"].startswith("free some space")
            assert "no space left on the disk of" in organism(stack_, "status").stdout
            assert "nothing was started or stopped → free some space" in last_line(organism(stack_, "up"))
            verified = organism(stack_, "verify", "--no-canary")
            assert "✗ environment: disks: no space left on the disk of" in verified.stdout + verified.stderr
            # A connection may find room where the last one did not; what it does say, it says on a line.
            for command in (("tasks", "list"), ("submit", "echo"), ("migrate",)):
                done = organism(stack_, *command)
                if done.returncode:
                    assert "→ free some space" in last_line(done), done.stderr
                elif command[0] == "submit":
                    accepted.add(done.stdout.strip())

            disk.free()
            await until(completed, patience=PATIENCE)
            assert (await http.get("/readyz")).status_code == 200
            assert dispatch.poll() is None

            # When its log has no room, Postgres ends, and cannot start.
            disk.fill()
            postgres = psutil.Process(stack_.state.processes["postgres"].pid)
            connection = await asyncpg.connect(stack_.state.dsn)
            with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
                await connection.fetchval(
                    "SELECT count(pg_logical_emit_message(false, 'fill', repeat('x', 10000000))) "
                    "FROM generate_series(1, 100)"
                )
            await asyncio.to_thread(psutil.wait_procs, [postgres], PATIENCE)
            said = organism(stack_, "status").stdout
            assert "no space left on the disk of" in said
            assert "`organism up` starts what has ended" in said
            assert (await http.get("/readyz")).status_code == 503
            assert "→ " in last_line(organism(stack_, "tasks", "list"))
            disk.free()
            stack_.run("up")
            assert accepted <= await ids_of(stack_)
            accepted |= {organism(stack_, "submit", "echo").stdout.strip() for _ in range(3)}
            await until(completed, patience=PATIENCE)
            assert dispatch.poll() is None
    finally:
        dispatch.send_signal(signal.SIGINT)
        out, err = dispatch.communicate(timeout=PATIENCE)
    assert "defect" not in out + err
    assert "Traceback" not in (stack_.home / "logs" / "gateway.log").read_text()
