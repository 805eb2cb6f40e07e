"""Processes for lanes, started while the flow does other things."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray

from organism_flows.blocks import ray_connection
from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.gc_tuning import importing
from organism_flows.blocks.http_clients import own_client

if TYPE_CHECKING:
    from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster

DEFAULT_BLOCK = "/block_types/slug/ray-cluster/block_documents/name/default"
"""Path in Prefect's API."""
ASK_TIMEOUT_S = 2.0
"""Longest wait for each step of a request to Prefect's server, in seconds."""
PREPARE_TIMEOUT_S = 30.0
"""Longest wait for the processes of lanes, in seconds. Then the lanes are started all the same."""

_begun: dict[str, list[Any]] = {}
"""What `begin` has begun, by Ray's id of this process's connection."""


async def prepare_ahead(address: str, lanes: int) -> None:
    """Connect to the Ray at ``address``, and begin what `prepare_lanes` then waits for.

    Call it before Prefect is imported: that takes as long as the processes of lanes do, on another core. If
    Ray does not let us in, nothing is begun, and the flow says why. Nor is it if the block names a cluster or
    a token: a process that was connected to one Ray head cannot connect to another with other tokens (2.60).
    """
    if not await _block_names_none():
        return
    with suppress(ConfigurationError):
        await ray_connection.connect(address)
        begin(lanes)


async def _block_names_none() -> bool:
    """Return whether the default Ray Cluster block leaves address and token empty; False if nobody says."""
    import httpx

    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    auth = (user, password) if user else None
    try:
        async with own_client(timeout=ASK_TIMEOUT_S, auth=auth) as client:
            answer = await client.get(f"{os.environ['PREFECT_API_URL']}{DEFAULT_BLOCK}")
        if answer.status_code == 404:
            return True
        named = answer.json()["data"]
        return not (named.get("address") or named.get("token"))
    except (KeyError, ValueError, httpx.HTTPError):
        return False


def begin(lanes: int) -> None:
    """Begin what `prepare_lanes` then waits for. This process must be connected to Ray."""
    # The block with the CPUs of a lane is not known yet, and Ray ignores them when it reuses a process.
    prepare = ray.remote(num_cpus=0, max_retries=0)(_import_lane)
    _begun[_connection()] = [prepare.remote() for _ in range(lanes)]


async def prepare_lanes(cluster: RayCluster, lanes: int) -> list[int]:
    """Have Ray start a process for each of ``lanes`` lanes, which imports what a lane needs.

    That takes seconds of processor time, in which the flow can do other things. The lanes then run in these
    processes: Ray gives idle processes of a job to its next tasks.

    Returns:
        The process ids. One is missing where a process could not be prepared: its lane finds out why.
    """
    prepare = ray.remote(**cluster.lane_options())(_import_lane)
    begun = _begun.pop(_connection(), [])
    begun += [prepare.remote() for _ in range(lanes - len(begun))]
    try:
        async with asyncio.timeout(PREPARE_TIMEOUT_S):
            prepared = await asyncio.gather(*begun, return_exceptions=True)
    except (ray.exceptions.RayError, ConnectionError, TimeoutError):
        return []
    return [pid for pid in prepared if isinstance(pid, int)]


def _connection() -> str:
    return str(ray.get_runtime_context().get_job_id())


def _import_lane() -> int:
    # To unpickle this function, the process imports this module: so it has no imports that take long.
    with importing():
        import organism_flows.flows.supervision.lane_task  # noqa: F401

    return os.getpid()
