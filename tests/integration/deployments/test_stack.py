"""The embedded stack, for real: one is started, broken, repaired, stopped and started again.

The tests of a class share one stack and run in the order they are written in.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.local_stack.stack_state import StackState, read_stack
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack.components import ray_folder
from organism_flows.deployments.stack.local import marks_of
from organism_flows.deployments.stack.state import known_processes
from organism_flows.deployments.stack.system import processes
from organism_flows.flows.prefect_support.stale_runs import FLOW_NAMES
from tests.support.stack import prefect_api

pytestmark = pytest.mark.stack("own")
ORGANISM = [sys.executable, "-m", "organism_flows.deployments.cli.main"]
PATIENCE = 180
"""Seconds; only a deadline for a machine that hangs."""


class Home:
    """A home for a stack, and the `organism` command on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env = {**os.environ, "ORGANISM_HOME": str(path), "ORGANISM_WORKER": "false"}
        self.env["ORGANISM_REPLICAS"] = "1"  # so that each answer is of the same one

    def popen(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*ORGANISM, *arguments],
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.path,
        )

    def organism(self, *arguments: str, code: int = 0, **env: str) -> Any:
        """Run a command with ``--json`` and return what it prints."""
        process = self.popen(*arguments, "--json", **env)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"{out}\n{err}"
        return json.loads(out)

    def stack(self) -> StackState:
        stack = read_stack(self.path)
        assert stack is not None
        return stack

    @property
    def headers(self) -> dict[str, str]:
        """Those that carry the token of the stack."""
        return dict(own_headers(Settings(home=self.path)))

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """What the organism's HTTP routes answer."""
        url = f"{self.stack().organism_url}{path}"
        return httpx.request(method, url, headers=self.headers, trust_env=False, **request)

    def members(self, *roles: str) -> list[psutil.Process]:
        return marks_of(self.path).members(known_processes(self.path), roles or None)

    def sql(self, statement: str) -> Any:
        async def run() -> Any:
            connection = await asyncpg.connect(self.stack().dsn)
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()

        return asyncio.run(run())


@pytest.fixture
def empty_home() -> Iterator[Home]:
    yield from _home()


@pytest.fixture(scope="class")
def home() -> Iterator[Home]:
    yield from _home()


def _home() -> Iterator[Home]:
    # Not pytest's own folder: too long for sockets, and under root closed to the user Postgres runs as.
    path = Path(tempfile.mkdtemp(prefix="organism-t-"))
    path.chmod(0o711)
    home = Home(path)
    try:
        yield home
    finally:
        home.organism("down")
        for process in marks_of(path).members(known_processes(path)):
            process.kill()
        shutil.rmtree(path, ignore_errors=True)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Lines of its standard error up to the one that holds ``text``."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    pytest.fail(f"ended without {text!r}: {''.join(lines)}")


class TestLife:
    """Up, joined, broken, repaired, down, up again."""

    def test_a_killed_up_and_two_at_once_make_one_stack(self, home: Home) -> None:
        killed = home.popen("up")
        read_until(killed, "postgres: ready")
        killed.kill()
        killed.communicate(timeout=PATIENCE)
        postgres = home.stack().processes["postgres"]
        both = [home.popen("up", "--json"), home.popen("up", "--json")]
        results = [json.loads(process.communicate(timeout=PATIENCE)[0]) for process in both]
        assert sorted(result.get("joined", result) for result in results) == [False, True]
        assert results[0]["processes"] == results[1]["processes"]
        assert home.stack().processes["postgres"] == postgres, "what the killed one left and works is kept"

    def test_every_part_is_healthy(self, home: Home) -> None:
        status = home.organism("status")
        assert status["state"] == "healthy"
        assert {name: part["state"] for name, part in status["components"].items()} == {
            "postgres": "healthy",
            "ray": "healthy",
            "prefect": "healthy",
            "organism": "healthy",
            "gateway": "healthy",
        }
        assert status["notes"] == []

    def test_the_organism_runs_a_task_over_http(self, home: Home) -> None:
        task = {"task_id": "a", "claim": 1, "attempt": 1, "type": "echo", "params": {"x": 1}}
        answer = home.ask("POST", "/handle-task", json=task)
        assert answer.status_code == 200, answer.text
        assert answer.json()["success"] is True

    def test_every_socket_is_loopback(self, home: Home) -> None:
        members = home.members()
        assert len(members) > 10
        assert processes.exposed_sockets(members) == []
        listening = [
            connection
            for process in members
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) > 5, "the check above saw no sockets at all"

    def test_nobody_else_may_enter(self, home: Home) -> None:
        stack = home.stack()
        assert stack.ray_token_path.stat().st_mode & 0o777 == 0o600
        closed = [home.path / name for name in ("postgres", "postgres/socket", "prefect", "logs", "run")]
        for folder in [*closed, ray_folder(home.path, stack.stack_id).parent]:
            assert folder.stat().st_mode & 0o077 == 0, folder
        url = f"{stack.ray_dashboard_url}/api/serve/applications/"
        assert httpx.get(url, trust_env=False).status_code == 401

    def test_postgres_keeps_checksums_and_listens_on_no_port(self, home: Home) -> None:
        assert home.sql("SHOW data_checksums") == "on"
        assert home.sql("SHOW listen_addresses") == ""
        assert home.sql("SELECT count(*) FROM tasks") == 0

    def test_joining_restarts_nothing_and_tells_what_has_no_effect(self, home: Home) -> None:
        before = home.ask("GET", "/health").json()
        process = home.popen("up", ORGANISM_HTTP_PORT="4")
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert "ORGANISM_HTTP_PORT=4 has no effect on the running stack" in err
        after = home.ask("GET", "/health").json()
        assert after["pid"] == before["pid"]

    def test_a_changed_configuration_is_applied_by_joining(self, home: Home) -> None:
        (home.path / "mine.py").write_text("def greet(task):\n    return 'hello'\n")
        (home.path / "mine.yaml").write_text(
            "organs:\n  - {id: mine, task_types: [greet], handler: 'mine:greet'}\n"
        )
        assert home.organism("up", ORGANISM_CONFIG="mine.yaml")["joined"] is True
        task = {"task_id": "a", "claim": 1, "attempt": 1, "type": "greet", "params": {}}
        answer = home.ask("POST", "/handle-task", json=task)
        assert answer.json()["result"] == "hello", answer.text

    def test_what_changed_is_said_and_its_replicas_replaced(self, home: Home) -> None:
        def up(*arguments: str) -> Any:
            return home.organism("up", *arguments, ORGANISM_CONFIG="mine.yaml")

        assert up()["changes"] == []
        before = home.ask("GET", "/health").json()
        (home.path / "mine.py").write_text("import words\ndef greet(task):\n    return words.greeting\n")
        (home.path / "words.py").write_text("greeting = 'hello'\n")
        [change] = up("--now")["changes"]
        assert (change["effect"], change["why"]) == ("replaced", ["mine.py changed", "words.py is new"])
        (home.path / "words.py").write_text("greeting = 'good day'\n")
        process = home.popen("up", ORGANISM_CONFIG="mine.yaml")
        out, err = process.communicate(timeout=PATIENCE)
        assert out.startswith(
            "Organism Flows is already running; the organism was replaced: words.py changed"
        )
        assert "organism: replicas are replaced: words.py changed; " in err
        task = {"task_id": "a", "claim": 1, "attempt": 1, "type": "greet", "params": {}}
        answer = home.ask("POST", "/handle-task", json=task)
        assert answer.json()["result"] == "good day", answer.text
        after = home.ask("GET", "/health").json()
        assert after["pid"] != before["pid"]

    def test_what_died_is_named_and_repaired_and_the_rest_left_alone(self, home: Home) -> None:
        home.sql("INSERT INTO tasks (type, params) VALUES ('kept', '{}')")
        url = f"{prefect_api(home.stack())}/variables/"
        httpx.post(url, json={"name": "kept", "value": 1}, trust_env=False).raise_for_status()
        before = home.stack()
        for process in home.members("prefect", "gateway"):
            process.kill()
        status = home.organism("status", code=1)
        assert status["state"] == "unhealthy"
        assert status["components"]["prefect"]["state"] == "stopped"
        assert status["components"]["gateway"]["state"] == "stopped"
        assert status["components"]["ray"]["state"] == "healthy"
        assert home.organism("up")["joined"] is False
        after = home.stack()
        assert after.processes["postgres"] == before.processes["postgres"]
        assert after.processes["ray"] == before.processes["ray"]
        assert after.processes["prefect"] != before.processes["prefect"]
        assert after.processes["gateway"] != before.processes["gateway"]
        assert after.prefect_api_url == before.prefect_api_url
        assert after.gateway_url == before.gateway_url
        assert home.organism("status")["state"] == "healthy"

    def test_without_ray_the_gateway_takes_tasks(self, home: Home) -> None:
        before = home.stack()
        for process in home.members("ray"):
            process.kill()
        with httpx.Client(base_url=before.gateway_url, headers=home.headers, trust_env=False) as http:
            assert http.post("/api/tasks", json={"type": "echo"}).status_code == 201
            ready = http.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            assert http.post("/coordinator/submit", json={"type": "echo"}).status_code == 503
            home.organism("up")
            after = home.stack()
            assert after.processes["ray"] != before.processes["ray"]
            assert after.processes["gateway"] == before.processes["gateway"], "it lived through it"
            assert http.get("/readyz").json()["status"] == "ok"
            answer = http.post("/coordinator/submit", json={"type": "echo", "params": {"n": 1}})
            assert answer.json()["result"] == {"n": 1}

    def test_a_worker_that_is_added_later_has_its_deployments(self, home: Home) -> None:
        url = f"{prefect_api(home.stack())}/deployments/count"
        assert httpx.post(url, trust_env=False).json() == 0
        assert home.organism("up", ORGANISM_WORKER="true")["joined"] is False
        assert httpx.post(url, trust_env=False).json() == len(FLOW_NAMES)
        assert home.members("worker")

    def test_down_leaves_no_process_even_without_the_state_file(self, home: Home) -> None:
        # Killed like this, Postgres must recover when it starts again.
        os.kill(home.stack().processes["postgres"].pid, signal.SIGKILL)
        members = home.members()
        (home.path / "stack.json").write_text("half a fi")
        stopped = home.organism("down")
        assert {"ray", "prefect"} <= set(stopped["stopped"])
        assert [process for process in members if _runs(process)] == []
        assert not (home.path / "stack.json").exists()
        assert home.organism("down")["was_running"] is False
        assert home.organism("status", code=1)["state"] == "stopped"

    def test_data_survives(self, home: Home) -> None:
        assert home.organism("up")["joined"] is False
        assert home.sql("SELECT count(*) FROM tasks WHERE type = 'kept'") == 1
        url = f"{prefect_api(home.stack())}/variables/name/kept"
        assert httpx.get(url, trust_env=False).json()["value"] == 1
        members = home.members()
        home.organism("down")
        assert [process for process in members if _runs(process)] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_of_up_nothing_is_left(empty_home: Home, number: signal.Signals) -> None:
    process = empty_home.popen("up")
    read_until(process, "postgres: ready")
    assert len(empty_home.members()) > 3
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert f"interrupted by {number.name}" in err
    assert empty_home.members() == []
    assert not (empty_home.path / "stack.json").exists()


def test_what_a_killed_up_leaves_is_seen_and_removed_by_down(empty_home: Home) -> None:
    process = empty_home.popen("up")
    read_until(process, "prefect: starting")
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert empty_home.members() != []
    assert empty_home.organism("status", code=1)["state"] != "healthy"
    assert empty_home.organism("down")["was_running"] is True
    assert empty_home.members() == []


def test_down_stops_an_up_at_work(empty_home: Home) -> None:
    # However long `down` takes to start, this `up` is not done by then: its handler never loads.
    (empty_home.path / "stuck.py").write_text("import threading\n\nthreading.Event().wait()\n")
    (empty_home.path / "stuck.yaml").write_text(
        "organs:\n  - {id: stuck, task_types: [stuck], handler: 'stuck:run'}\n"
    )
    process = empty_home.popen("up", ORGANISM_CONFIG="stuck.yaml")
    read_until(process, "prefect: starting")
    empty_home.organism("down")
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert empty_home.members() == []


def test_a_taken_port_the_user_asked_for_is_refused_before_anything_starts(empty_home: Home) -> None:
    with socket_on_a_port() as port:
        answer = empty_home.organism("up", code=1, ORGANISM_PREFECT_PORT=str(port))
    assert answer["error"].startswith(f"port {port} for the Prefect UI (ORGANISM_PREFECT_PORT) is taken by")
    assert f"pid {os.getpid()}" in answer["error"]
    assert not (empty_home.path / "logs" / "ray.log").exists()


def test_an_unreachable_database_is_named_before_anything_starts(empty_home: Home) -> None:
    dsn = "postgresql://someone:hunter2@127.0.0.1:1/work"
    answer = empty_home.organism("up", code=1, ORGANISM_DSN=dsn)
    assert answer["error"].startswith("cannot reach Postgres at 127.0.0.1:1/work")
    assert "hunter2" not in json.dumps(answer)
    assert not (empty_home.path / "logs" / "ray.log").exists()


def test_a_wrong_configuration_is_named_before_anything_starts(empty_home: Home) -> None:
    (empty_home.path / "mine.yaml").write_text("organs: 5")
    answer = empty_home.organism("up", code=1, ORGANISM_CONFIG="mine.yaml")
    assert str(empty_home.path / "mine.yaml") in answer["error"]
    assert not (empty_home.path / "logs" / "ray.log").exists()


def test_a_stale_state_file_is_no_obstacle(empty_home: Home) -> None:
    """Its pids belong to others by now, which must survive."""
    other = psutil.Process()
    stale = {"pid": other.pid, "created": other.create_time() - 1000}
    url = "http://127.0.0.1:1"
    (empty_home.path / "stack.json").write_text(
        json.dumps(
            {
                "home": str(empty_home.path),
                "stack_id": "x",
                "dsn": "",
                "ray_address": "127.0.0.1:1",
                "ray_token_path": "/none",
                "ray_dashboard_url": url,
                "prefect_api_url": url,
                "prefect_ui_url": url,
                "organism_url": url,
                "processes": {"ray": stale, "postgres": stale},
            }
        )
    )
    assert empty_home.organism("status", code=1)["state"] == "stopped"
    assert empty_home.organism("down")["was_running"] is False
    assert not (empty_home.path / "stack.json").exists()


def socket_on_a_port() -> Any:
    import contextlib
    import socket

    @contextlib.contextmanager
    def listening() -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]

    return listening()


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
