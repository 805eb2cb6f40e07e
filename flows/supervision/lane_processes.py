"""Processes for lanes, started while the flow does other things."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import ray

from organism_flows.blocks.gc_tuning import importing

if TYPE_CHECKING:
    from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster

PREPARE_TIMEOUT_S = 30.0
"""Longest wait for the processes of lanes, in seconds. Then the lanes are started all the same."""


async def prepare_lanes(cluster: RayCluster, lanes: int) -> list[int]:
    """Have Ray start a process for each of ``lanes`` lanes, which imports what a lane needs.

    That takes seconds of processor time, in which the flow can do other things. The lanes then run in these
    processes: Ray gives idle processes of a job to its next tasks.

    Returns:
        The process ids. One is missing where a process could not be prepared: its lane finds out why.
    """
    prepare = ray.remote(**cluster.lane_options())(_import_lane)
    try:
        async with asyncio.timeout(PREPARE_TIMEOUT_S):
            prepared = await asyncio.gather(*[prepare.remote() for _ in range(lanes)], return_exceptions=True)
    except (ray.exceptions.RayError, ConnectionError, TimeoutError):
        return []
    return [pid for pid in prepared if isinstance(pid, int)]


def _import_lane() -> int:
    # To unpickle this function, the process imports this module: so it has no imports that take long.
    with importing():
        import organism_flows.flows.supervision.lane_task  # noqa: F401

    return os.getpid()
