"""Operated as people do: schedules fire, deployments run as typed, verify and bootstrap tell what is."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deployments.test_prefect_yaml import OURS
from tests.stack import Stack, until

# A stack of its own with a worker, three minutes in all: run with `make soak`.
pytestmark = [pytest.mark.anyio, pytest.mark.stack, pytest.mark.soak]


@pytest.fixture(scope="module")
def operated() -> Iterator[Stack]:
    """A stack of its own, with a worker."""
    home = Path(tempfile.mkdtemp(prefix="organism-ops-"))
    home.chmod(0o711)
    stack = Stack(home)
    stack.env["ORGANISM_WORKER"] = "true"
    try:
        stack.run("up")
        yield stack
    finally:
        stack.run("down")
        shutil.rmtree(home, ignore_errors=True)


def prefect(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The `prefect` command as a user types it."""
    return subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        env={**stack.env, "PREFECT_API_URL": stack.state.prefect_api_url},
        cwd=stack.home,
        capture_output=True,
        text=True,
        timeout=180,
    )


def runs(stack: Stack, flow: str) -> list[dict[str, Any]]:
    """Flow runs of one flow that are past being scheduled, the newest first."""
    # Of the scheduled ones there are a hundred.
    begun = {"state": {"type": {"any_": ["RUNNING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}}
    body = {
        "sort": "START_TIME_DESC",
        "limit": 50,
        "flows": {"name": {"any_": [flow]}},
        "flow_runs": begun,
    }
    answer = httpx.post(f"{stack.state.prefect_api_url}/flow_runs/filter", json=body, trust_env=False)
    found: list[dict[str, Any]] = answer.json()
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
    url = f"{api}/deployments/{deployment}/schedules/{schedule}"
    assert httpx.patch(url, json={"active": True}, trust_env=False).status_code == 204


async def test_what_somebody_turned_on_stays_on(operated: Stack) -> None:
    api = operated.state.prefect_api_url
    [dispatch] = [d for d in deployments(api) if d["entrypoint"] == "flows.dispatch.dispatch"]
    [schedule] = dispatch["schedules"]
    turn_on(api, dispatch["id"], schedule["id"])
    worker = operated.state.processes["worker"].pid
    os.kill(worker, signal.SIGKILL)
    status = operated.run("status", code=1)
    assert status["components"]["worker"]["state"] == "stopped"
    operated.run("up")
    assert operated.run("status")["components"]["worker"]["state"] == "healthy"
    assert operated.state.processes["worker"].pid != worker
    [dispatch] = [d for d in deployments(api) if d["entrypoint"] == "flows.dispatch.dispatch"]
    assert dispatch["schedules"][0]["active"] is True
    # It is what the file says again when asked for.
    assert set(operated.run("deploy")["deployments"]) == OURS
    [dispatch] = [d for d in deployments(api) if d["entrypoint"] == "flows.dispatch.dispatch"]
    assert dispatch["schedules"][0]["active"] is False


async def test_the_watchdogs_schedule_fires(operated: Stack) -> None:
    """Which it does not with a SQLAlchemy that Prefect's scheduler does not work with."""
    done = await until(lambda: completed(operated, "watchdog"), patience=150)
    assert done[0]["name"].startswith("watchdog · ")


def completed(stack: Stack, flow: str) -> list[dict[str, Any]]:
    return [run for run in runs(stack, flow) if run["state_type"] == "COMPLETED"]


def deployments(api: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.post(f"{api}/deployments/filter", json={}, trust_env=False).json()
    return found
