"""docs/how-to/stream-partial-results.md does what it says."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from organism_flows.blocks.queue import Queue
from organism_flows.flows.lanes.lane import Lane
from organism_flows.serve_apps.organism.config import load_config
from organism_flows.serve_apps.organism.handler_api.emitted_chunks import (
    CHUNK_LIMIT_BYTES,
    CHUNKS_LIMIT,
    CHUNKS_LIMIT_BYTES,
)
from tests.support.gateway.running import running
from tests.support.local_organism import LocalOrganism
from tests.support.page import Page
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio
PAGE = Page("how-to/stream-partial-results.md")
TIMEOUT = 120


async def test_its_task_is_read_in_every_way(
    queue: Queue, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    PAGE.write(tmp_path, ("python", "answering.py"), ("yaml", "organism.yaml"))
    monkeypatch.syspath_prepend(str(tmp_path))
    organism = LocalOrganism(load_config(tmp_path / "organism.yaml").model_dump(mode="json"))
    _, reading, _ = re.findall(r"```python\n(.*?)```", PAGE.text, re.DOTALL)
    async with running(database) as gateway:
        monkeypatch.setenv("ORGANISM_GATEWAY_URL", gateway.url)
        lane = asyncio.create_task(Lane(queue, organism).run())
        try:
            await asyncio.wait_for(asyncio.to_thread(exec, reading, {}), TIMEOUT)
        finally:
            lane.cancel()
            await asyncio.wait({lane})
        assert capsys.readouterr().out == "You asked: who are you?  {'words': 5}\n"
        [row, *_] = await pool_of(queue).fetch(PAGE.block("sql"))
        assert '"You "' in row["chunks"]
        if shutil.which("curl"):
            task_id = await pool_of(queue).fetchval("SELECT id FROM tasks")
            [command] = re.findall(r"^curl .*$", PAGE.text, re.MULTILINE)
            script = command.replace("$GATEWAY", gateway.url).replace("$ID", str(task_id))
            done = await asyncio.to_thread(
                subprocess.run,
                script,
                shell=True,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=True,
            )
            events = [event.splitlines()[0] for event in done.stdout.split("\n\n") if event]
            assert events == ["event: begin", *["event: chunk"] * 5, "event: end"]


def test_the_limits_are_those_of_the_code() -> None:
    assert f"longer than {CHUNK_LIMIT_BYTES:,} bytes" in PAGE.text
    assert f"{CHUNKS_LIMIT:,} chunks already" in PAGE.text
    assert f"more than {CHUNKS_LIMIT_BYTES:,} bytes" in PAGE.text
    bounds = " ".join(Page("reference/bounds.md").text.split())
    assert f"{CHUNKS_LIMIT:,} chunks and {CHUNKS_LIMIT_BYTES:,} bytes" in bounds
