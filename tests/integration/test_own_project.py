"""A project whose own folders are called like those of Organism Flows works from its own directory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from organism_flows.blocks.queue import Queue, TaskFilter
from tests.support.stack import Stack

pytestmark = [pytest.mark.anyio, pytest.mark.stack]
NAMES = ("flows", "blocks", "serve_apps", "deployments", "tests")
SCRIPT = """
import json
from organism_flows import NewTask, TaskQueue, dispatch
from prefect import flow
import flows, blocks

@flow
async def nightly():
    queue = await TaskQueue.named("default")
    async with queue.open() as tasks:
        await tasks.submit([NewTask(type="own", params={"name": "a flow"})])
    return await dispatch(until_empty=True, lanes=1)

if __name__ == "__main__":
    import asyncio
    summary = asyncio.run(nightly())
    print(json.dumps({"completed": summary.completed, "mine": [flows.MINE, blocks.MINE]}))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with packages of these names, each of which ends the process that takes it for another."""
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"MINE = {name!r}\n")
    return tmp_path


def run_script(stack: Stack, project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "nightly.py"]
    return subprocess.run(command, cwd=project, env=stack.env, capture_output=True, text=True, timeout=170)


async def test_commands_lanes_replicas_and_processes_take_no_folder_for_theirs(
    stack: Stack, stack_queue: Queue, project: Path
) -> None:
    for kind in ("own", "own.process"):
        stack.run("submit", kind, "--params", '{"name": "a shell"}', cwd=project)
    stack.run("dispatch", "--until-empty", "--lanes", "2", cwd=project)
    for task in await stack_queue.reader.page(TaskFilter(), limit=10):
        row = await stack_queue.get(str(task.id))
        assert (row.status, row.result) == (
            "completed",
            {"said": "hello from a project of one's own, a shell"},
        ), row.error


async def test_a_flow_of_the_project_finds_its_own_packages_and_ours(
    stack: Stack, stack_queue: Queue, project: Path
) -> None:
    (project / "nightly.py").write_text(SCRIPT)
    done = run_script(stack, project)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"completed": 1, "mine": ["flows", "blocks"]}
    assert (await stack_queue.reader.counts())["completed"] == 1
