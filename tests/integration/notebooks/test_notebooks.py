"""The notebooks run as they are, on the real stack; one that is interrupted ends its run in good order."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell

from notebooks.execute import FOLDER, client_of, execute, names, printed
from organism_flows.blocks.queue import NewTask, Queue, TaskFilter
from tests.support.stack import Stack, until

NAMES = ["operate", "quickstart", "resume"]


def env_of(stack: Stack) -> dict[str, str]:
    """Of a kernel, which has to find the stack by itself."""
    unset = (
        "PREFECT_API_URL",
        "PREFECT_API_AUTH_STRING",
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN_PATH",
    )
    env = {name: value for name, value in stack.env.items() if name not in unset}
    return env | {"PYTHONPATH": str(FOLDER.parent)}


def test_there_are_no_others() -> None:
    assert names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_has_been_run_from_top_to_bottom(name: str) -> None:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    assert len((FOLDER / f"{name}.ipynb").read_bytes()) < 100_000


@pytest.mark.anyio
@pytest.mark.stack
async def test_operate(stack: Stack, stack_queue: Queue, tmp_path: Path) -> None:
    notebook = await execute("operate", env_of(stack), tmp_path)
    text = printed(notebook)
    assert "{'completed': 300, 'failed': 5}" in text
    assert "would be redriven: 3" in text
    assert "3 redriven, 3 completed, 0 failed" in text
    assert "image/png" in str(notebook.cells[-2].outputs), "the plot"
    counts = await stack_queue.reader.counts()
    assert (counts["completed"], counts["failed"]) == (303, 2)


@pytest.mark.anyio
@pytest.mark.stack
async def test_quickstart_and_an_interrupted_dispatch(
    stack: Stack, stack_queue: Queue, tmp_path: Path
) -> None:
    client = client_of("quickstart", tmp_path)
    async with client.async_setup_kernel(env=env_of(stack)):
        for place, cell in enumerate(client.nb.cells):
            await client.async_execute_cell(cell, place)
        counts = await stack_queue.reader.counts()
        assert counts["completed"] == sum(counts.values()) > 20
        assert f"{counts['completed']} completed, 0 failed" in printed(client.nb)

        opened = tmp_path / "opened"
        slow = [NewTask(type="slow", params={"until": str(opened)}) for _ in range(40)]
        ids = await stack_queue.submit(slow)
        running = asyncio.create_task(run(client, "await dispatch(until_empty=True)"))
        await until(lambda: _running(stack_queue))
        assert isinstance(client.km, AsyncKernelManager)
        await client.km.interrupt_kernel()
        await until(lambda: _stopping(stack_queue))
        opened.touch()
        with pytest.raises(CellExecutionError, match="CancelledRun"):
            await running

        rows = (await stack_queue.reader.states(ids)).values()
        assert {row.status for row in rows} <= {"completed", "queued"}, "what ran has finished"
        assert any(row.status == "completed" for row in rows)
        assert all(row.attempts == 0 for row in rows if row.status == "queued"), "uncharged"
        assert await stack_queue.reader.lanes() == []
        await run(client, "await dispatch(until_empty=True)")
        assert (await stack_queue.reader.counts())["completed"] == counts["completed"] + len(ids)


@pytest.mark.anyio
@pytest.mark.stack
@pytest.mark.soak  # Serve takes seconds to start the replica that takes the place of the killed one
async def test_resume(stack: Stack, stack_queue: Queue, tmp_path: Path) -> None:
    notebook = await execute("resume", env_of(stack), tmp_path)
    check_resumed(notebook)
    [task] = await stack_queue.reader.page(TaskFilter())
    assert (task.status, task.attempts) == ("completed", 1)


def test_what_is_committed_shows_a_kill_and_the_resumption() -> None:
    check_resumed(nbformat.read(FOLDER / "resume.ipynb", as_version=4))


def check_resumed(notebook: nbformat.NotebookNode) -> None:
    """The second run has begun after the number at the kill, and the attempt was not charged."""
    text = printed(notebook)
    assert re.search(r"20 by process (\d+); progress 33%, 20 of 60\n.* s  process \1 is killed\n", text)
    assert re.search(r"run 2 begins\n.* 40 by process \d+; progress 67%", text)
    ended = re.search(r"completed \{'counted': 60, 'began_after': (\d+)\} attempt 1\n", text)
    assert ended
    assert int(ended[1]) >= 20
    assert f"to step {ended[1]}, " in text
    assert "image/png" in str(notebook.cells[-1].outputs), "the plot"


async def run(client: NotebookClient, code: str) -> None:
    """Run one more cell in the kernel of ``client``."""
    client.nb.cells.append(new_code_cell(code))
    await client.async_execute_cell(client.nb.cells[-1], len(client.nb.cells) - 1)


async def _running(queue: Queue) -> int:
    return (await queue.reader.counts())["running"]


async def _stopping(queue: Queue) -> bool:
    return any(lane.stop_requested for lane in await queue.reader.lanes())


@pytest.mark.anyio
async def test_without_a_stack_it_says_in_one_line_what_to_do(tmp_path: Path) -> None:
    env = {**os.environ, "ORGANISM_HOME": str(tmp_path), "PYTHONPATH": str(FOLDER.parent)}
    with pytest.raises(CellExecutionError) as refused:
        await execute("quickstart", env, tmp_path)
    assert "Traceback" not in refused.value.traceback
    assert "run `organism up`" in refused.value.traceback.splitlines()[-1]
