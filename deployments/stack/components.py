"""The processes of the embedded stack except Postgres: their commands, and when they are ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx

from organism_flows.blocks.errors import StackError
from organism_flows.blocks.finding import Finding, failed
from organism_flows.blocks.local_stack.stack_state import StackState
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack.addresses import port_of
from organism_flows.deployments.stack.child_environment import (
    base_environment,
    gateway_environment,
    prefect_database,
    prefect_environment,
    ray_environment,
    sqlite_file,
    worker_environment,
)
from organism_flows.deployments.stack.health import WORK_POOL, basic
from organism_flows.deployments.stack.postgres.server import SOCKET_LIMIT
from organism_flows.deployments.stack.system.folders import private_folder, short_folder
from organism_flows.deployments.stack.system.ports import LOOPBACK
from organism_flows.deployments.stack.system.processes import Child, failure, listens, spawn

RAY_HEAD = "organism_flows.deployments.stack.ray_head"
PREFECT_SERVER = "organism_flows.deployments.stack.prefect_server"
RAY_TIMEOUT = 120.0
DEPLOYMENTS_TIMEOUT = 120.0
WORKER_TIMEOUT = 90.0
PREFECT_TIMEOUT = 180.0
GATEWAY_TIMEOUT = 60.0
"""Each is in seconds. A first start without compiled bytecode on a slow disk takes tens of them."""
OBJECT_STORE_BYTES = 256 * 1024 * 1024
"""Size of Ray's object store, in bytes. Batches travel over handle calls, not through the object store."""
WATCHDOG = "watchdog/organism"
WATCHDOG_LONGEST_S = 3600.0
"""Time that a started watchdog run goes on, in seconds.

The same as in `flows.prefect_support.watchdog_relay`, which takes a second to import.
"""
KEPT_SESSIONS = 3
"""Number of earlier starts whose Ray logs are kept."""
# Length of what Ray adds to its folder: /session_2026-11-23_23-13-14_708374_1234567/sockets/ and a name.
RAY_SOCKET_SUFFIX = 1 + 42 + len("/sockets/dash_PlatformEventsHead")


def run_folder(home: Path) -> Path:
    """Return the working folder of the stack's processes, by which they are recognized."""
    return home / "run"


def ray_folder(home: Path, stack_id: str) -> Path:
    """Return Ray's own folder. Ray opens it to all users, so it lies in a private one."""
    folder = home / "ray" / "t"
    too_long = len(os.fsencode(folder)) + RAY_SOCKET_SUFFIX > SOCKET_LIMIT
    # With a space or an umlaut in the path of its folder, Ray 2.60 starts and then never answers.
    if too_long or not re.fullmatch(r"[\w./+-]+", str(folder), re.ASCII):
        folder = short_folder(stack_id) / "ray" / "t"
    return folder


def refuse_long_sockets(home: Path, stack_id: str) -> None:
    """Raise an error if the paths of Ray's Unix sockets would be too long.

    For a long home, sockets lie in a short folder below the temporary folder. That may be too long as well.

    Raises:
        StackError: The paths would be too long.
    """
    folder = ray_folder(home, stack_id)
    excess = len(os.fsencode(folder)) + RAY_SOCKET_SUFFIX - SOCKET_LIMIT
    if excess > 0:
        raise StackError(
            f"Ray's sockets below {folder} would have paths {excess} bytes longer than the {SOCKET_LIMIT} "
            "that Unix allows",
            "set a shorter ORGANISM_HOME, or a shorter TMPDIR",
        )


def start_ray(settings: Settings, stack: StackState) -> Child:
    """Start the Ray head on loopback, with token authentication."""
    folder = ray_folder(stack.home, stack.stack_id)
    if folder.parent.parent != stack.home:
        private_folder(folder.parent.parent, mode=0o711 if os.geteuid() == 0 else 0o700)
    private_folder(folder.parent)
    temporary = folder.with_name("tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    private_folder(temporary)
    prune_sessions(folder)
    command = [sys.executable, "-P", "-m", RAY_HEAD, "start", "--head", "--block"]
    command += ["--node-ip-address", LOOPBACK, "--port", _port(stack.ray_address)]
    command += ["--dashboard-host", LOOPBACK, "--dashboard-port", _port(stack.ray_dashboard_url)]
    command += ["--dashboard-agent-listen-port", "0", "--temp-dir", str(folder), "--disable-usage-stats"]
    command += ["--object-store-memory", str(OBJECT_STORE_BYTES)]
    # The log monitor copies what workers print to every connected driver: lanes ignore it, and the dashboard
    # reads the files. The autoscaler's monitor has nothing to scale on one node. Each takes 0.7 s of CPU and
    # 80 MB.
    command += ["--include-log-monitor", "false", "--no-monitor"]
    # Slots for placing work, not cores: lanes and replicas must find room on a laptop with two cores as well.
    command += [
        "--num-cpus",
        str(max(4, os.cpu_count() or 1)),
        "--log-color",
        "false",
        "--log-style",
        "record",
    ]
    return spawn(
        "ray",
        command,
        env=ray_environment(settings, stack, temporary),
        log=stack.home / "logs" / "ray.log",
        cwd=run_folder(stack.home),
    )


def start_prefect(settings: Settings, stack: StackState) -> Child:
    """Start the Prefect server on loopback. Its database must answer."""
    home = private_folder(stack.home / "prefect")
    command = [sys.executable, "-P", "-m", PREFECT_SERVER, _port(stack.prefect_api_url)]
    return spawn(
        "prefect",
        command,
        env=prefect_environment(settings, stack, home),
        log=stack.home / "logs" / "prefect.log",
        cwd=run_folder(stack.home),
    )


async def check_own_port(child: Child, address: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    """Return the answer of ``check``, which fails if another process than ``child`` has the port.

    Two stacks that start at the same time may choose one port.
    """
    answer = await check()
    port = int(_port(address))
    if answer.ok and not await asyncio.to_thread(listens, child.process.pid, port):
        return failed(child.role, f"port {port} belongs to another program")
    return answer


def start_worker(settings: Settings, stack: StackState) -> Child:
    """Start a Prefect worker, which runs flows in processes of their own on this machine."""
    command = [sys.executable, "-P", "-m", "prefect", "worker", "start", "--pool", WORK_POOL]
    # No --limit: with one, Prefect 3.8.8's worker exits if a run is retried in the UI before its process has
    # ended ("this borrower is already holding one of this CapacityLimiter's tokens").
    command += ["--type", "process", "--name", stack.stack_id]
    return spawn(
        "worker",
        command,
        env=worker_environment(settings, stack, private_folder(stack.home / "worker")),
        log=stack.home / "logs" / "worker.log",
        cwd=run_folder(stack.home),
    )


def start_gateway(settings: Settings, stack: StackState) -> Child:
    """Start the gateway on loopback. It waits for Postgres by itself, and needs no Ray."""
    return spawn(
        "gateway",
        [sys.executable, "-P", "-m", "organism_flows.serve_apps.gateway"],
        env=gateway_environment(settings, stack),
        log=stack.home / "logs" / "gateway.log",
        cwd=run_folder(stack.home),
    )


@contextlib.contextmanager
def deploying(settings: Settings, stack: StackState) -> Iterator[Callable[[], Awaitable[None]]]:
    """Register blocks with the stack's Prefect server, and with a worker also work pool and deployments.

    A process of its own does it, because Prefect takes seconds to import and reads its settings on import. It
    imports while the server starts.

    Yields:
        A function to call when the server answers. It returns when everything is applied, and raises
        `StackError` if the process failed.
    """
    from organism_flows.flows.prefect_support.deployments import applied_before

    what = ["organism_flows.blocks.prefect_blocks.registration"]
    if settings.worker:
        what = ["organism_flows.flows.prefect_support.deployments", str(applied_mark(stack))]
        if stack.dsn:
            what.append(str(sqlite_file(stack.home)))
        if applied_before(applied_mark(stack)):
            what = []
    child = what and spawn(
        "deployments",
        [sys.executable, "-P", "-m", *what],
        env=base_environment(settings, stack),
        log=stack.home / "logs" / "deployments.log",
        cwd=run_folder(stack.home),
        stdin=subprocess.PIPE,
    )

    async def finish() -> None:
        if not child:
            return
        assert child.process.stdin
        child.process.stdin.close()
        deadline = time.monotonic() + DEPLOYMENTS_TIMEOUT
        while child.exited() is None and time.monotonic() < deadline:  # noqa: ASYNC110  # a process
            await asyncio.sleep(0.05)
        if child.exited() != 0:
            raise failure("cannot apply the deployments to Prefect", child.last_words(), child.log)

    try:
        yield finish
    finally:
        if child and child.exited() is None:
            child.process.kill()
            child.process.wait()


def about_prefects_data(stack: StackState) -> list[str]:
    """Return notes on where the Prefect server, which is about to start, keeps its data."""
    older = sqlite_file(stack.home)
    if stack.dsn and older.exists() and not applied_mark(stack).exists():
        return [
            "Prefect now uses Postgres: schedules stay on or off; runs, blocks, variables and automations of "
            f"before stay behind in {older}"
        ]
    if prefect_database(stack).startswith("sqlite"):
        return [
            "Prefect uses SQLite, which gives way under load: set PREFECT_SERVER_DATABASE_CONNECTION_URL to "
            "postgresql+asyncpg://… for a database of its own"
        ]
    return []


def applied_mark(stack: StackState) -> Path:
    """Return the file that records which deployments were applied. It lies with the Prefect server's data."""
    folder = stack.home / ("postgres" if stack.dsn else "prefect")
    return folder / "deployments-applied"


async def start_watchdog(client: httpx.AsyncClient, stack: StackState) -> None:
    """Create a run of the watchdog if its schedule is on. The schedule's next run may be minutes away.

    Call it when all else is up: to begin a run takes 3 s of processor time, which the organism needs.
    Prefect's own client is not used, because it takes a second to import. If this fails, the schedule starts
    the next run.
    """
    api, headers = stack.prefect_api_url, basic(stack.prefect_secret_path)
    with contextlib.suppress(httpx.HTTPError):
        found = await client.get(f"{api}/deployments/name/{WATCHDOG}", headers=headers)
        if not found.is_success:
            return
        deployment = found.json()
        if not deployment["paused"] and any(schedule["active"] for schedule in deployment["schedules"]):
            body = {"parameters": {"for_seconds": WATCHDOG_LONGEST_S}}
            url = f"{api}/deployments/{deployment['id']}/create_flow_run"
            await client.post(url, json=body, headers=headers)


async def wait_for(child: Child, check: Callable[[], Awaitable[Finding]], timeout: float) -> None:
    """Wait until ``check`` finds that ``child`` works.

    Args:
        child: The process.
        check: Returns whether it works.
        timeout: Longest wait, in seconds.

    Raises:
        StackError: The process ended, or did not work in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        if child.exited() is not None:
            raise child.died()
        answer = await check()
        if answer.ok:
            return
        if time.monotonic() > deadline:
            what = f"{child.role} is not ready after {timeout:g} s ({answer.evidence})"
            raise failure(what, child.last_words(), child.log)
        await asyncio.sleep(0.05)


def prune_sessions(folder: Path) -> None:
    """Delete all but the newest of Ray's session folders in ``folder``. No Ray may run on it."""
    sessions = sorted(folder.glob("session_2*"), key=lambda path: path.name)
    for session in sessions[: -KEPT_SESSIONS or None]:
        shutil.rmtree(session, ignore_errors=True)


def _port(address: str) -> str:
    return str(port_of(address))
