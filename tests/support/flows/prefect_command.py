"""Prefect's own command, on the stack."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import httpx

from organism_flows.blocks.local_stack.stack_state import prefect_environment_of
from tests.support.stack import PATIENCE, Stack


def prefect(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The `prefect` command as a user types it."""
    return subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        env={**stack.env, **prefect_environment_of(stack.state)},
        cwd=stack.home,
        capture_output=True,
        text=True,
        timeout=180,
    )


def ask(method: str, url: str, body: Any = None) -> httpx.Response:
    """Ask Prefect's server, again while it says that its database is locked."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = httpx.request(method, url, json=body, trust_env=False, timeout=30)
        if answer.status_code != 503 or time.monotonic() > deadline:
            return answer.raise_for_status()
        time.sleep(0.5)


def start_run(stack: Stack, flow: str, **parameters: Any) -> str:
    """Start a run of our deployment, as the UI does, and return its id."""
    api = stack.prefect_api
    [deployment] = [d for d in deployments(api) if d["entrypoint"].endswith(f".{flow}")]
    url = f"{api}/deployments/{deployment['id']}/create_flow_run"
    answer = ask("POST", url, {"state": {"type": "SCHEDULED"}, "parameters": parameters})
    return str(answer.json()["id"])


def deployments(api: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask("POST", f"{api}/deployments/filter", {}).json()
    return found
