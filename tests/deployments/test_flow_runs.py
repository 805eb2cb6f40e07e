"""A command that runs a flow says on one line that Prefect's server is away."""

from __future__ import annotations

import httpx
import pytest

from blocks.errors import OrganismError
from deployments.flow_runs import outcome

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
    with pytest.raises(OrganismError, match="no answer of Prefect's server") as raised:
        await outcome(failing(error))
    assert str(error) in raised.value.what
    assert "run this again" in raised.value.next_step


async def test_a_defect_stays_one() -> None:
    with pytest.raises(RuntimeError, match="odd"):
        await outcome(failing(RuntimeError("odd")))
