"""When processes for lanes may be started before the flow knows its Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from organism_flows.blocks import ray_connection
from organism_flows.blocks.errors import ConfigurationError
from organism_flows.flows.supervision import lane_processes

pytestmark = pytest.mark.anyio


def unreachable(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def answering(status: int, body: Any) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"].startswith("Basic ")
        return httpx.Response(status, json=body)

    return answer


@pytest.mark.parametrize(
    ("prefect", "ahead"),
    [
        (answering(404, {"detail": "Block document not found"}), True),
        (answering(200, {"data": {}}), True),
        (answering(200, {"data": {"address": None, "lane_cpus": 0.5}}), True),
        (answering(200, {"data": {"address": "other:6379"}}), False),
        (answering(200, {"data": {"token": "********"}}), False),
        (answering(401, {"exception_message": "Unauthorized"}), False),
        (unreachable, False),
    ],
)
async def test_lanes_are_prepared_ahead_if_the_block_names_no_cluster(
    prefect: Callable[[httpx.Request], httpx.Response], ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(**options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(prefect), **options)

    connected: list[str] = []

    async def connect(address: str) -> None:
        connected.append(address)
        raise ConfigurationError("refused", "")  # nothing else is begun, and the flow says why

    monkeypatch.setattr(lane_processes, "own_client", client)
    monkeypatch.setattr(ray_connection, "connect", connect)
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "organism:secret")
    await lane_processes.prepare_ahead("here:6379", 1)
    assert connected == (["here:6379"] if ahead else [])
