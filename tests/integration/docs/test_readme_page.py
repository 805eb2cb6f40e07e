"""README.md: the Python it shows for submitting tasks runs as it stands."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from organism_flows.blocks.queue import Queue
from tests.support.stack import Stack

pytestmark = [pytest.mark.anyio, pytest.mark.stack]
TEXT = (Path(__file__).parents[3] / "README.md").read_text()


async def run(code: str, names: dict[str, Any]) -> None:
    indented = code.replace("\n", "\n    ")
    exec(f"async def example():\n    {indented}", names)
    await names["example"]()


async def test_its_clients_submit_and_wait(
    stack: Stack, stack_queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    # The tests' organism has no `shout`; `echo` gives the params back.
    blocks = [
        code.replace('"shout"', '"echo"') for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    ]
    [over_http] = [code for code in blocks if "Client()" in code]
    [on_the_table] = [code for code in blocks if "TaskQueue" in code]
    lanes = stack.start("dispatch", "--json")
    try:
        await run(over_http, {})
        assert "{'text': 'hello'}" in capsys.readouterr().out
    finally:
        lanes.send_signal(signal.SIGINT)
        await asyncio.to_thread(stack.finish, lanes, code=130)
    await run(on_the_table, {})
    assert "'queued': 10001" in capsys.readouterr().out
