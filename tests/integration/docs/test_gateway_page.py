"""docs/how-to/gateway.md: every command of it runs. docs/reference/http-api.md: every route is in it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from organism_flows.serve_apps.gateway.http.auth import scope_needed
from tests.support.gateway.routes import OPEN, ROUTES
from tests.support.gateway.running import Gateway, running
from tests.support.page import DOCS
from tests.support.scripted_organism import ScriptedOrganism

pytestmark = pytest.mark.anyio
TEXT = (DOCS / "how-to/gateway.md").read_text()
REFERENCE = (DOCS / "reference/http-api.md").read_text()


@pytest.fixture
async def gateway(database: str) -> AsyncIterator[Gateway]:
    async with running(database, organism=ScriptedOrganism()) as gateway:
        yield gateway


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="its commands use curl and jq")
async def test_its_commands_run(gateway: Gateway, tmp_path: Path) -> None:
    script = "\n".join(["set -eo pipefail", *(b for b in blocks("sh") if "python -m" not in b)])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        script,
        cwd=tmp_path,
        env={"PATH": path, "GATEWAY": gateway.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()
    said = out.decode()
    assert "waits for a lane" in said
    assert "event: status" in said
    assert '"outcome":"cancelled"' in said
    assert 'organism_tasks{status="cancelled",type="echo"} 3' in said
    assert re.match(r"operate:[0-9a-f]{64}  # console", (tmp_path / "tokens").read_text())


async def test_its_python_runs(gateway: Gateway) -> None:
    [code] = blocks("python")
    indented = code.replace("\n", "\n    ")
    names: dict[str, Any] = {"GATEWAY": gateway.url}
    exec(f"async def example():\n    {indented}", names)
    await names["example"]()
    [task] = (await gateway.http.get("/api/tasks")).json()["tasks"]
    assert task["status"] == "cancelled"


def test_it_names_every_route_and_its_scope() -> None:
    rows = dict(re.findall(r"\| `((?:GET|POST) /\S+)` \| (\w*) ?\|", REFERENCE))
    assert rows.keys() == {f"{method.upper()} {path}" for method, path in ROUTES}
    for name, scope in rows.items():
        method, path = name.split()
        expected = "" if (method.lower(), path) in OPEN else scope_needed(method, path)
        assert scope == expected, name
