"""A command that runs a flow says on one line that Prefect's server is away."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from organism_flows.blocks.errors import OrganismError
from organism_flows.deployments.cli.flow_runs import begun_within, outcome

pytestmark = pytest.mark.anyio


async def failing(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to reach API at http://127.0.0.1:9/api/"),  # before a run begins
        httpx.ConnectError("All connection attempts failed"),  # while one does or ends
    ],
)
async def test_a_server_that_is_away_is_one_line(error: Exception) -> None:
    with pytest.raises(OrganismError, match=r"the Prefect server .* does not answer") as raised:
        await outcome(failing(error))
    assert str(error) in raised.value.what
    assert "run this again" in raised.value.next_step


async def test_a_defect_stays_one() -> None:
    with pytest.raises(RuntimeError, match="odd"):
        await outcome(failing(RuntimeError("odd")))


@flow
async def waits(begun: asyncio.Event, end: asyncio.Event) -> str:
    begun.set()
    await end.wait()
    return "done"


async def test_a_server_that_does_not_let_a_run_begin_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        begun = asyncio.Event()
        with temporary_settings({PREFECT_API_URL: url}):
            run = outcome(begun_within(waits(begun, asyncio.Event()), begun, 1.0))
            with pytest.raises(OrganismError, match="the run has not begun within 1 s") as raised:
                await asyncio.wait_for(run, 30)
    assert "run this again" in raised.value.next_step
    assert not begun.is_set()


async def test_a_run_that_has_begun_takes_as_long_as_it_takes() -> None:
    begun, end = asyncio.Event(), asyncio.Event()
    run = asyncio.ensure_future(begun_within(waits.fn(begun, end), begun, 0.0001))
    await begun.wait()
    await asyncio.sleep(0.01)
    end.set()
    assert await run == "done"
