"""`organism dispatch` in a terminal ends with one line when `organism down` stops its stack."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from organism_flows.blocks.queue import Queue
from tests.support.stack import Stack, until

# A stack of its own, a minute in all: run with `make soak`.
pytestmark = [pytest.mark.anyio, pytest.mark.stack("own"), pytest.mark.soak]
RAYS_OWN_S = 60.0
"""After so long Ray 2.60 ends the process itself."""


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="organism-down-"))
    home.chmod(0o711)
    stack = Stack(home)
    try:
        stack.run("up")
        yield stack
    finally:
        stack.run("down")
        shutil.rmtree(home, ignore_errors=True)


async def test_dispatch_ends_with_one_line_when_its_stack_is_taken_down(own_stack: Stack) -> None:
    dispatch = own_stack.start("dispatch", "--quiet", "--json")
    async with Queue(own_stack.state.dsn) as queue:

        async def claims() -> bool:
            return any(lane.claiming for lane in await queue.reader.lanes())

        await until(claims, patience=120)
    await asyncio.to_thread(own_stack.run, "down")
    stopped = time.monotonic()
    out, err = await asyncio.to_thread(dispatch.communicate, timeout=2 * RAYS_OWN_S)
    assert dispatch.returncode == 1, err
    assert time.monotonic() - stopped < RAYS_OWN_S
    assert "GCS" not in err
    told = json.loads(out)
    assert told["error"] == f"`organism down` has stopped the stack in {own_stack.home}, and this run with it"
    assert told["next_step"].startswith("`organism up`, then run this again")
