"""Versions that differ are refused in one line that says which and where."""

from __future__ import annotations

import asyncio

import pytest
import ray

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.organism_reports import HealthReport
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.queue.wire import WIRE_VERSION
from organism_flows.blocks.ray_connection import _refused
from organism_flows.blocks.versions import (
    differences,
    installed,
    package_version,
    refuse_other_flow,
    refuse_other_wire,
)
from organism_flows.serve_apps.organism.config import parse_config
from organism_flows.serve_apps.organism.manager import OrganismManager
from organism_flows.serve_apps.organism.release.serve_config import serve_config


def test_replicas_of_this_version_are_taken() -> None:
    refuse_other_wire(HealthReport.of(OrganismManager({"organs": []}).health()))


@pytest.mark.parametrize("theirs", [WIRE_VERSION + 1, WIRE_VERSION - 1, None])
def test_replicas_of_another_wire_version_are_refused(theirs: int | None) -> None:
    with pytest.raises(ConfigurationError, match=rf"lanes from here would speak {WIRE_VERSION} .*one image"):
        refuse_other_wire(HealthReport(status="healthy", wire_version=theirs))


def test_a_lane_takes_its_own_version_alone() -> None:
    refuse_other_flow(package_version(), "here")
    with pytest.raises(ConfigurationError, match=r"on node-2 and 9\.9\.9 where the flow runs → .*one image"):
        refuse_other_flow("9.9.9", "node-2")


def test_differences_are_named() -> None:
    assert differences(installed(), installed()) == []
    assert differences({"ray": "1", "Python": "3"}, {"ray": "2"}) == [
        "ray 1 here, 2 there",
        "Python 3 here, not known there",
    ]


def test_rays_own_refusal_is_one_line() -> None:
    other = {"ray_version": "2.59.0", "python_version": "3.12.1"}
    with pytest.raises(RuntimeError) as raised:
        ray._private.utils.check_version_info(other, "10.0.0.1:1")
    said = str(_refused("10.0.0.2:6379", raised.value))
    assert said.startswith(
        "Ray at 10.0.0.2:6379 is of another version: "
        "The cluster was started with: Ray: 2.59.0 Python: 3.12.1 This process "
    )
    assert "\n" not in said


@pytest.mark.anyio
async def test_ray_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests may have connected this process
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ConfigurationError, match=r"Ray Client.*--num-cpus=0"):
        await RayCluster().connect()


@pytest.mark.anyio
async def test_without_a_node_on_this_machine_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(services, "find_node_ids", set)
    monkeypatch.setattr("organism_flows.blocks.ray_connection.OWN_NODE_TIMEOUT", 0.0)
    listening = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1")
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(ConfigurationError, match=r"no Ray node runs on this machine.*--num-cpus=0"):
            await RayCluster(address=f"127.0.0.1:{port}").connect()


def test_a_working_dir_is_what_serve_takes() -> None:
    config = parse_config({"working_dir": "https://code.example/handlers-1.zip"})
    [app] = serve_config(config)["applications"]
    assert app["runtime_env"] == {"working_dir": "https://code.example/handlers-1.zip"}
    with pytest.raises(ConfigurationError, match="working_dir"):
        parse_config({"working_dir": "./handlers"})
    [app] = serve_config(parse_config({}))["applications"]
    assert "runtime_env" not in app


@pytest.mark.parametrize(
    "uri",
    [
        "http://code.example/handlers-1.zip",
        "http://me:secret@10.0.0.7:8000/handlers-1.zip#sha256=6af2af29",
        "http://127.0.0.1.code.example/handlers-1.zip",
        "http://localhost@code.example/handlers-1.zip",
    ],
)
def test_code_over_plain_http_is_refused_on_one_line(uri: str) -> None:
    with pytest.raises(ConfigurationError, match=r"working_dir: .*plain http.*; use https") as refused:
        parse_config({"working_dir": uri})
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1:8099", "localhost", "[::1]:8099"])
def test_code_over_plain_http_comes_from_loopback_only(host: str) -> None:
    uri = f"http://{host}/handlers-1.zip"
    assert parse_config({"working_dir": uri}).working_dir == uri
