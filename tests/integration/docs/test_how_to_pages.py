"""Pages of steps: a first task, installing, a nightly load, submitting from within a handler."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from organism_flows.blocks.queue import Queue
from organism_flows.serve_apps.organism.config import load_config
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.gateway.running import running
from tests.support.organism.helpers import batch
from tests.support.organism.helpers import run as run_batch
from tests.support.page import DOCS, Page
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio
ROOT = DOCS.parent


def indented(name: str, language: str) -> list[str]:
    """The code blocks within the steps of a list."""
    found = re.findall(
        rf"^   ```{language}\n(.*?)^   ```", (DOCS / name).read_text(), re.DOTALL | re.MULTILINE
    )
    return [re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in found]


def run(script: str, folder: Path, **env: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **env}
    done = subprocess.run(
        ["bash", "-e"],
        input=script,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_runs_in_a_project_of_its_own(tmp_path: Path) -> None:
    """All but the installation of other packages, which takes a gigabyte."""
    wheels, installed, project = (tmp_path / name for name in ("dist", "installed", "project"))
    build = next(line for line in indented("start/install.md", "sh")[0].splitlines() if "hatchling" in line)
    run(f"cd {ROOT}; {Path(sys.executable).parent}/{build.split('/')[-1]} -d {wheels}", tmp_path)
    [wheel] = wheels.iterdir()
    zipfile.ZipFile(wheel).extractall(installed)
    project.mkdir()
    for language, name in (("python", "handlers.py"), ("yaml", "organism.yaml")):
        (project / name).write_text(indented("start/install.md", language)[0])
    said = run(
        "python -c 'import organism_flows; print(organism_flows.__file__)'; "
        "python -m organism_flows.deployments.cli.main handlers check",
        tmp_path,
        PYTHONPATH=str(installed),
        ORGANISM_CONFIG=str(project / "organism.yaml"),
    )
    assert said.startswith(str(installed))
    assert "✓ voice: shout → handlers:shout" in said
    # What is no Python comes along: each statement, migration and configuration.
    for package in ("blocks", "serve_apps", "flows", "deployments"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (installed / "organism_flows" / path.relative_to(ROOT)).exists(), path


async def test_a_nightly_load_may_be_repeated(queue: Queue, tmp_path: Path) -> None:
    [files, load] = indented("how-to/nightly-load.md", "sh")
    said = await asyncio.to_thread(run, f"{files}\n{load}", tmp_path, ORGANISM_DSN=queue.dsn)
    assert (await queue.reader.counts())["queued"] == 1, said


@pytest.mark.parametrize("page", ["how-to/nightly-load.md", "runbook/disk-full.md"])
def test_a_deployment_gives_its_flow_what_it_takes(page: str) -> None:
    [deployment] = yaml.safe_load(indented(page, "yaml")[0])["deployments"]
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(import_module(module), name)
    assert deployment["parameters"].keys() <= inspect.signature(flow.fn).parameters.keys()


@pytest.mark.parametrize("name", ["start/first-task.md", "../README.md"])
async def test_the_first_handler_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(name)
    monkeypatch.syspath_prepend(tmp_path)
    page.write(tmp_path, ("python", "handlers.py"), ("yaml", "organism.yaml"))
    manager = OrganismManager(load_config(tmp_path / "organism.yaml"))
    outcome = await run_batch(manager, batch(("shout", {"text": "hello"})))
    assert outcome.results[0] == {"said": "HELLO"}


async def test_a_handler_that_runs_again_submits_no_child_twice(
    queue: Queue, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page("how-to/submit-from-handlers.md")
    page.write(tmp_path, ("python", "crawl.py"), ("yaml", "organism.yaml"))
    assert load_config(tmp_path / "organism.yaml").organs[0].handler == "crawl:crawl"
    codes = re.findall(r"```python\n(.*?)```", page.text, re.DOTALL)
    task = {"task_id": "019a8c6e-2f3b-7c41-9d5a-6b7c8d9e0f12", "params": {"pages": 2}}
    async with running(database) as gateway:
        monkeypatch.setenv("ORGANISM_GATEWAY_URL", gateway.url)
        for code, children in zip(codes, (2, 4), strict=True):
            names: dict[str, Any] = {}
            exec(code, names)
            await names["crawl"](task)
            await names["crawl"](task)
            await names["client"].aclose()
            assert sum((await queue.reader.counts()).values()) == children
        # Also when the children have ended meanwhile.
        await pool_of(queue).execute("UPDATE tasks SET status = 'completed', finished_at = now()")
        await names["crawl"](task)
        await names["client"].aclose()
        assert sum((await queue.reader.counts()).values()) == 4
