"""Operated as people do: schedules fire, deployments run as typed, verify and bootstrap tell what is."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.migrate import MIGRATIONS
from tests.support.flows.deployments import OURS
from tests.support.flows.prefect_command import ask, deployments, prefect, start_run
from tests.support.flows.tasks_under_way import Tasks
from tests.support.sql import pool_of
from tests.support.stack import PATIENCE, Stack, until

# A stack of its own with a worker, three minutes in all: run with `make soak`.
pytestmark = [pytest.mark.anyio, pytest.mark.stack("own"), pytest.mark.soak]

NEWEST = max(path.stem for path in (MIGRATIONS / "versions").glob("v*.py"))[1:5]
"""Migration of this version."""


@pytest.fixture(scope="module")
def operated() -> Iterator[Stack]:
    """A stack of its own, with a worker."""
    home = Path(tempfile.mkdtemp(prefix="organism-ops-"))
    home.chmod(0o711)
    stack = Stack(home)
    stack.env["ORGANISM_WORKER"] = "true"
    # As for whoever is not the first on a machine to start a worker: its folder there is not theirs.
    (shared := home / "tmp").mkdir()
    (shared / "runner_storage").touch()
    stack.env["TMPDIR"] = str(shared)
    try:
        stack.run("up")
        yield stack
    finally:
        stack.run("down")
        shutil.rmtree(home, ignore_errors=True)


def runs(stack: Stack, flow: str, *states: str) -> list[dict[str, Any]]:
    """Flow runs of one flow in some states, or past being scheduled; the newest first."""
    # Of the scheduled ones there are a hundred.
    wanted = states or ("RUNNING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    body = {
        "sort": "START_TIME_DESC",
        "limit": 50,
        "flows": {"name": {"any_": [flow]}},
        "flow_runs": {"state": {"type": {"any_": wanted}}},
    }
    found: list[dict[str, Any]] = ask("POST", f"{stack.prefect_api}/flow_runs/filter", body).json()
    return found


async def test_a_deployment_is_run_as_typed(operated: Stack) -> None:
    ids = operated.run("submit", "echo", "--params", '{"n": 1}')["ids"]
    ran = await asyncio.to_thread(
        prefect, operated, "deployment", "run", "dispatch/organism", "-p", "until_empty=true", "--watch"
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert operated.run("tasks", "show", ids[0])["status"] == "completed"
    [run] = runs(operated, "dispatch")
    assert run["name"].endswith("· 1 lane")
    assert run["state"]["message"].startswith("1 completed, 0 dead letters")


async def test_parameters_are_checked_before_anything_runs(operated: Stack) -> None:
    ran = await asyncio.to_thread(
        prefect, operated, "deployment", "run", "dispatch/organism", "-p", "lanes=0"
    )
    assert ran.returncode != 0
    assert "lanes" in ran.stdout + ran.stderr


async def test_verify_says_what_is_missing_and_a_lane_makes_it_well(operated: Stack) -> None:
    found = operated.run("verify", code=1)
    assert found["status"] == "degraded"
    troubles = {f["check"]: f for f in found["findings"] if f["status"] != "ok"}
    assert set(troubles) == {"prefect: deployments", "canary"}
    assert "dispatch is not scheduled" in troubles["prefect: deployments"]["action"]
    dispatch = operated.start("dispatch", "--max-seconds", "60", "--json")
    try:
        await until(lambda: operated_lanes(operated))
        found = operated.run("verify", code=1)
        canary = next(f for f in found["findings"] if f["check"] == "canary")
        assert canary["status"] == "ok", canary
    finally:
        dispatch.send_signal(signal.SIGTERM)
        await asyncio.to_thread(dispatch.communicate)


def operated_lanes(stack: Stack) -> int:
    found = stack.run("verify", "--no-canary", code=1)
    return sum(
        f["evidence"].startswith("1: lane-") for f in found["findings"] if f["check"] == "lanes: alive"
    )


async def test_bootstrap_finds_everything_right_and_sends_a_canary(operated: Stack) -> None:
    ran = await asyncio.to_thread(prefect, operated, "deployment", "run", "bootstrap/organism", "--watch")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [run] = runs(operated, "bootstrap")
    assert run["state"]["message"] == "everything was right already"


def turn_on(api: str, deployment: str, schedule: str) -> None:
    toggle(f"{api}/deployments/{deployment}/schedules/{schedule}", True)


async def test_what_somebody_turned_on_stays_on(operated: Stack) -> None:
    api = operated.prefect_api
    [dispatch] = [d for d in deployments(api) if d["entrypoint"] == "organism_flows.flows.dispatch.dispatch"]
    [schedule] = dispatch["schedules"]
    turn_on(api, dispatch["id"], schedule["id"])
    worker = operated.state.processes["worker"].pid
    os.kill(worker, signal.SIGKILL)
    status = operated.run("status", code=1)
    assert status["components"]["worker"]["state"] == "stopped"
    operated.run("up")
    assert operated.run("status")["components"]["worker"]["state"] == "healthy"
    assert operated.state.processes["worker"].pid != worker
    [dispatch] = [d for d in deployments(api) if d["entrypoint"] == "organism_flows.flows.dispatch.dispatch"]
    assert dispatch["schedules"][0]["active"] is True
    # So does applying, which leaves alone what people decided.
    assert set(operated.run("deploy")["deployments"]) == OURS
    [dispatch] = [d for d in deployments(api) if d["entrypoint"] == "organism_flows.flows.dispatch.dispatch"]
    assert dispatch["schedules"][0]["active"] is True
    operated.run("schedule", "dispatch", "off")


async def test_a_watchdog_goes_on_from_the_start_and_a_killed_one_is_replaced(operated: Stack) -> None:
    [first] = await until(lambda: runs(operated, "watchdog", "RUNNING"), patience=150)

    def process() -> psutil.Process | None:
        worker = psutil.Process(operated.state.processes["worker"].pid)
        for child in worker.children(recursive=True):
            with suppress(psutil.Error):
                if child.environ().get("PREFECT__FLOW_RUN_ID", "").endswith(first["id"]):
                    return child
        return None

    (await until(process)).kill()

    def others() -> list[dict[str, Any]]:
        return [run for run in runs(operated, "watchdog", "RUNNING") if run["id"] != first["id"]]

    [second] = await until(others, patience=150)
    assert not second["auto_scheduled"], "it did not wait for the schedule"
    assert (await final_state(operated, first["id"]))["type"] == "CRASHED"


async def test_a_run_of_the_watchdogs_schedule_relieves_the_one_before(operated: Stack) -> None:
    """A schedule fires, which it does not with a SQLAlchemy that Prefect's scheduler does not work with."""
    [before] = await until(lambda: runs(operated, "watchdog", "RUNNING"), patience=150)
    with own_schedule(operated, "watchdog", seconds=60):
        relieved = await final_state(operated, before["id"])
    assert relieved["type"] == "COMPLETED"
    assert "relieved by watchdog · " in relieved["message"]
    assert any(run["auto_scheduled"] for run in runs(operated, "watchdog", "RUNNING"))


async def test_one_command_has_the_queue_worked_off_for_good(operated: Stack) -> None:
    [on] = operated.run("schedule", "dispatch", "on")["schedules"]
    assert on == {"deployment": "dispatch/organism", "on": True, "schedules": ["every 300 s"]}
    with own_schedule(operated, "dispatch", seconds=10):
        [task] = operated.run("submit", "echo")["ids"]
        await until(lambda: operated.run("tasks", "show", task)["status"] == "completed", patience=90)
    [off] = operated.run("schedule", "dispatch", "off")["schedules"]
    assert not off["on"]
    for run in runs(operated, "dispatch", "PENDING", "RUNNING"):
        press(operated, run["id"], {"type": "CANCELLING", "name": "Cancelling"})
        await final_state(operated, run["id"])
    told = operated.run("schedule", "submit", "on", code=1)
    assert told["error"] == "submit/organism has no schedule"
    assert "no deployment nonsense/organism" in operated.run("schedule", "nonsense", "on", code=1)["error"]


@contextmanager
def own_schedule(stack: Stack, flow: str, *, seconds: float) -> Iterator[Callable[[], str]]:
    """A schedule that somebody adds in the UI, without a slug as there; gives its URL."""
    api = stack.prefect_api
    [deployment] = [d for d in deployments(api) if d["entrypoint"].endswith(f".{flow}")]
    url = f"{api}/deployments/{deployment['id']}/schedules"
    body = [{"active": True, "schedule": {"interval": seconds}}]
    ask("POST", url, body)

    def own() -> str:
        [schedule] = [s for s in ask("GET", url).json() if s["slug"] is None]
        return f"{url}/{schedule['id']}"

    yield own
    ask("DELETE", own())


def toggle(schedule: str, active: bool) -> None:
    """What the switch of a schedule does in the UI."""
    ask("PATCH", schedule, {"active": active})


async def test_a_schedule_is_paused_and_resumed(operated: Stack) -> None:
    with own_schedule(operated, "redrive", seconds=10) as schedule:
        await until(lambda: runs(operated, "redrive"), patience=90)
        # It is kept when deployments are applied, and on.
        operated.run("deploy")
        toggle(schedule(), False)
        operated.run("deploy")
        await until(lambda: not runs(operated, "redrive", "SCHEDULED", "PENDING", "RUNNING"))
        begun = len(runs(operated, "redrive"))
        # There would be a run every ten, and Prefect's scheduler looks every five.
        await asyncio.sleep(20)
        assert len(runs(operated, "redrive")) == begun
        toggle(schedule(), True)
        await until(lambda: len(runs(operated, "redrive")) > begun, patience=90)


def press(stack: Stack, run: str, state: dict[str, str], *, force: bool = False) -> None:
    """Set a run's state, as the buttons of the UI do."""
    url = f"{stack.prefect_api}/flow_runs/{run}/set_state"
    answer = ask("POST", url, {"state": state, "force": force})
    assert answer.json()["status"] == "ACCEPT", answer.text


async def final_state(stack: Stack, run: str) -> dict[str, Any]:
    url = f"{stack.prefect_api}/flow_runs/{run}"
    final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

    def state() -> dict[str, Any] | None:
        found: dict[str, Any] = ask("GET", url).json()["state"]
        return found if found["type"] in final else None

    ended: dict[str, Any] = await until(state, patience=PATIENCE)
    return ended


async def test_a_run_cancelled_in_the_ui_drains(operated: Stack) -> None:
    async with Queue(operated.state.dsn) as queue:
        tasks = Tasks(operated, queue)
        await tasks.submit()
        run = start_run(operated, "dispatch", lanes=2)
        await until(tasks.all_run, patience=PATIENCE)
        press(operated, run, {"type": "CANCELLING", "name": "Cancelling"})
        tasks.let_end()
        state = await final_state(operated, run)
        assert (state["name"], "drained" in state["message"]) == ("Cancelled", True)
        await tasks.check()
        await queue.operator.cancel([UUID(tasks.endless)])


async def test_a_failed_verify_is_retried_from_the_ui(operated: Stack) -> None:
    async with Queue(operated.state.dsn) as queue:
        newest = await pool_of(queue).fetchval(
            "UPDATE organism_migrations SET version_num = '0002' RETURNING 1"
        )
        assert newest == 1
        run = start_run(operated, "verify", canary=False)
        state = await final_state(operated, run)
        assert (state["type"], "postgres: migrated failed" in state["message"]) == ("FAILED", True)
        await pool_of(queue).execute("UPDATE organism_migrations SET version_num = $1", NEWEST)
    retry = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    press(operated, run, retry, force=True)
    state = await final_state(operated, run)
    assert state["type"] == "COMPLETED", state
