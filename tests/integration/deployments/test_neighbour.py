"""Another user of the machine, and what the running stack lets them do: see docs/explanation/security.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from organism_flows.blocks.local_stack.access_token import TOKEN_FILE
from organism_flows.deployments.stack.components import ray_folder
from organism_flows.deployments.stack.local import marks_of
from organism_flows.deployments.stack.state import known_processes
from tests.support.stack import Stack

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root"),
    pytest.mark.skipif(not shutil.which("curl"), reason="the other user has curl"),
]
NEIGHBOUR = 54321
"""An id that no user has."""
TASK = '{"type": "echo", "params": {}}'
JSON = ("-H", "content-type: application/json")


def ask(url: str, *options: str) -> tuple[int, str]:
    """Status (0: no HTTP answer) and body of a request that the neighbour makes."""
    command = ["curl", "-s", "-m", "60", "--noproxy", "*", "-w", "\n%{http_code}", *options, url]
    done = subprocess.run(
        command, user=NEIGHBOUR, group=NEIGHBOUR, extra_groups=[], capture_output=True, text=True, cwd="/"
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body


def listening(stack: Stack) -> set[int]:
    """Every TCP port that a process of the stack listens on."""
    ports = set()
    for process in marks_of(stack.home).members(known_processes(stack.home)):
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        ports |= {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
    return ports


def port(url: str) -> int:
    return int(url.split(":")[2].partition("/")[0])


def test_no_route_lets_them_do_or_read_anything(stack: Stack) -> None:
    organism, gateway, ray = (
        stack.state.organism_url,
        stack.state.gateway_url,
        stack.state.ray_dashboard_url,
    )
    closed = [
        *(("GET", f"{gateway}{path}") for path in ("/api/tasks", "/metrics", "/coordinator/health")),
        *(
            ("POST", f"{gateway}{path}")
            for path in ("/api/tasks", "/api/tasks/cancel", "/coordinator/submit")
        ),
        *(("GET", f"{organism}{path}") for path in ("/status", "/running", "/drift", "/docs")),
        *(
            ("POST", f"{organism}{path}")
            for path in ("/handle-task", "/drain-limit?within_s=0", "/drift/reset")
        ),
        *(("GET", f"{ray}{path}") for path in ("/api/jobs/", "/api/serve/applications/", "/nodes", "/logs")),
        ("POST", f"{ray}/api/jobs/"),
        ("PUT", f"{ray}/api/serve/applications/"),
    ]
    for method, url in closed:
        body = () if method == "GET" else ("-d", TASK, *JSON)
        assert ask(url, "-X", method, *body)[0] == 401, (method, url)
    assert ask(f"{organism}/health") == (200, '{"status": "healthy", "organism_initialized": true}')
    assert ask(f"{gateway}/readyz")[1] == '{"status":"ok","reason":null}'


def test_no_other_port_speaks_to_them(stack: Stack) -> None:
    """But for Prefect, which is its own matter, and counters of processes of Ray's dashboard."""
    state = stack.state
    known = {port(url) for url in (state.organism_url, state.gateway_url, state.ray_dashboard_url)}
    known.add(port(state.prefect_api_url))
    others = listening(stack) - known
    assert len(others) >= 5, "Ray's own"
    for other in others:
        status, body = ask(f"http://127.0.0.1:{other}/")
        assert status in (0, 401) or re.match(r"# HELP \w+ ", body), (other, body[:200])


def test_no_file_or_socket_of_it_opens_to_them(stack: Stack) -> None:
    home = stack.home
    ray = ray_folder(home, stack.state.stack_id)
    for path in (
        home / TOKEN_FILE,
        home / "ray-token",
        home / "stack.json",
        home / "logs",
        ray,
        home / "run",
    ):
        assert path.exists()
        done = subprocess.run(
            ["ls" if path.is_dir() else "cat", str(path)],
            user=NEIGHBOUR, group=NEIGHBOUR, extra_groups=[], capture_output=True, text=True, cwd="/",
        )  # fmt: skip
        assert done.returncode, path
        assert "denied" in done.stderr.lower(), path
    sockets = {
        Path(each.laddr)
        for process in marks_of(home).members(known_processes(home))
        if process.is_running()
        for each in process.net_connections("unix")
        if each.laddr and each.laddr.startswith("/")
    }
    assert sockets
    for socket in sockets:
        assert ask("http://localhost/", "--unix-socket", str(socket))[0] == 0, socket
