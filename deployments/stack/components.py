"""The processes of the embedded stack beside Postgres: their commands, and when they are ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from organism_flows.blocks.errors import StackError
from organism_flows.blocks.settings import Settings
from organism_flows.blocks.stack_state import StackState
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
from organism_flows.deployments.stack.health import WORK_POOL, Check, basic
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
"""Seconds; a first start without compiled bytecode on a slow disk takes tens of them."""
OBJECT_STORE_BYTES = 256 * 1024 * 1024
"""Batches travel over handle calls, not through the object store."""
WATCHDOG = "watchdog/organism"
WATCHDOG_LONGEST_S = 3600.0
"""As in `flows.prefect_support.watchdog_relay`, which takes a second to import."""
KEPT_SESSIONS = 3
"""Ray's logs of so many earlier starts are kept."""
# What Ray puts below its folder: /session_2026-11-23_23-13-14_708374_1234567/sockets/ and a name.
RAY_SOCKET_SUFFIX = 1 + 42 + len("/sockets/dash_PlatformEventsHead")


def run_folder(home: Path) -> Path:
    """Working folder of the stack's processes, by which they are known."""
    return home / "run"


def ray_folder(home: Path, stack_id: str) -> Path:
    """Ray's own folder. Ray opens it to everybody, so it lies in one that is closed."""
    folder = home / "ray" / "t"
    too_long = len(os.fsencode(folder)) + RAY_SOCKET_SUFFIX > SOCKET_LIMIT
    # With a space or an umlaut in its folder Ray 2.60 starts and then never answers.
    if too_long or not re.fullmatch(r"[\w./+-]+", str(folder), re.ASCII):
        folder = short_folder(stack_id) / "ray" / "t"
    return folder


def refuse_long_sockets(home: Path, stack_id: str) -> None:
    """Refuse folders that leave no room for the paths of Unix sockets.

    A long home has its sockets in a short folder below the temporary one, which may be long as well.

    Raises:
        StackError: They would be too long.
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
    # It copies what workers print to every connected driver. Lanes do not listen; the dashboard reads files.
    # There is nothing to scale on one node. Each of the two takes 0.7 s of CPU and 80 MB.
    command += ["--include-log-monitor", "false", "--no-monitor"]
    # Slots for placing work, not cores: on a laptop of two cores lanes and replicas must still find room.
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


async def check_own_port(child: Child, address: str, check: Callable[[], Awaitable[Check]]) -> Check:
    """``check``, and that it was ``child`` that answered: two stacks started at once may choose one port."""
    answer = await check()
    port = int(_port(address))
    if answer.ok and not await asyncio.to_thread(listens, child.process.pid, port):
        return Check(False, f"port {port} belongs to another program")
    return answer


def start_worker(settings: Settings, stack: StackState) -> Child:
    """Start a Prefect worker, which runs flows in processes of their own on this machine."""
    command = [sys.executable, "-P", "-m", "prefect", "worker", "start", "--pool", WORK_POOL]
    # No --limit: with one, Prefect 3.8.8's worker ends when a run is retried in the UI before its process has
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


async def apply_deployments(settings: Settings, stack: StackState) -> None:
    """Make blocks, and with a worker work pool and deployments, known to the stack's Prefect server.

    In a process of its own, because Prefect takes seconds to import and reads its settings while it is.

    Raises:
        StackError: It failed.
    """
    what = ["organism_flows.blocks.registration"]
    if settings.worker:
        what = ["organism_flows.flows.prefect_support.deployments", str(applied_mark(stack))]
        if stack.dsn:
            what.append(str(sqlite_file(stack.home)))
    child = spawn(
        "deployments",
        [sys.executable, "-P", "-m", *what],
        env=base_environment(settings, stack),
        log=stack.home / "logs" / "deployments.log",
        cwd=run_folder(stack.home),
    )
    deadline = time.monotonic() + DEPLOYMENTS_TIMEOUT
    try:
        while child.exited() is None and time.monotonic() < deadline:  # noqa: ASYNC110  # a process
            await asyncio.sleep(0.05)
    finally:
        if child.exited() is None:
            child.process.kill()
            child.process.wait()
    if child.exited() != 0:
        raise failure("cannot apply the deployments to Prefect", child.last_words(), child.log)


def about_prefects_data(stack: StackState) -> list[str]:
    """Return what somebody should know of where the Prefect server keeps its data, before it starts."""
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
    """Return the file that says which deployments the Prefect server has. It lies with the server's data."""
    folder = stack.home / ("postgres" if stack.dsn else "prefect")
    return folder / "deployments-applied"


async def start_watchdog(client: httpx.AsyncClient, stack: StackState) -> None:
    """Have the worker start a watchdog, if its schedule is on: the next of the schedule may be minutes away.

    Without Prefect's own client, which takes a second to import. If it fails, the schedule starts the next.
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


async def wait_for(child: Child, check: Callable[[], Awaitable[Check]], timeout: float) -> None:
    """Wait until ``check`` says that ``child`` works.

    Args:
        timeout: Seconds.

    Raises:
        StackError: It ended, or did not work in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        if child.exited() is not None:
            raise child.died()
        answer = await check()
        if answer.ok:
            return
        if time.monotonic() > deadline:
            what = f"{child.role} is not ready after {timeout:g} s ({answer.detail})"
            raise failure(what, child.last_words(), child.log)
        await asyncio.sleep(0.05)


def prune_sessions(folder: Path) -> None:
    """Remove all but the newest of Ray's session folders in ``folder``; no Ray may be running on it."""
    sessions = sorted(folder.glob("session_2*"), key=lambda path: path.name)
    for session in sessions[: -KEPT_SESSIONS or None]:
        shutil.rmtree(session, ignore_errors=True)


def _port(address: str) -> str:
    return str(port_of(address))
