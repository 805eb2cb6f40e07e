"""Check of the versions on Ray's nodes: a lane may run on any of them.

Ray starts two processes on a node for the answer (2.60), which take 2.5 s of processor time. So answers are
kept in Ray's own key-value store, which lives as long as the cluster and its node ids.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

from organism_flows.blocks.finding import Finding, failed, ok
from organism_flows.blocks.prefect_blocks.ray_cluster import last_line
from organism_flows.blocks.versions import ONE_IMAGE, differences, installed

NODE_TIMEOUT_S = 30.0
"""Longest wait for the answer of one node, in seconds.

The node may have to start a worker process, which takes time for its imports.
"""
KEY = b"organism_flows:nodes_as_here"


async def versions_on(nodes: Sequence[Any], *, trust_s: float = 0.0) -> Finding:
    """Return whether nodes can run our code and have the same versions as this process.

    Args:
        nodes: Those to ask, as `ray.nodes` returns them.
        trust_s: Do not ask a node that had the versions of this process at most so many seconds ago.
    """
    here, now = installed(), time.time()
    known = {
        node: at for node, (at, versions) in _answers().items() if versions == here and now - at < trust_s
    }
    asked = [node for node in nodes if node["NodeID"] not in known]
    found = await asyncio.gather(*(_ask(node, here) for node in asked))
    same = known | {node["NodeID"]: now for node, line in zip(asked, found, strict=True) if line is None}
    alive = {node["NodeID"] for node in nodes}
    _keep({node: (at, here) for node, at in same.items() if node in alive})
    if wrong := [line for line in found if line is not None]:
        return failed("ray: versions", "; ".join(wrong), ONE_IMAGE)
    seen = "every node as here: " + ", ".join(f"{name} {version}" for name, version in here.items())
    if len(asked) < len(nodes):
        oldest_min = (now - min(known[node] for node in alive & set(known))) / 60
        seen += f"; {len(nodes) - len(asked)} of {len(nodes)} asked up to {oldest_min:.0f} minutes ago"
    return ok("ray: versions", seen)


async def _ask(node: Any, here: dict[str, str]) -> str | None:
    """Return what is wrong with a node, or `None`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    probe = ray.remote(installed).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
    try:
        there = await asyncio.wait_for(probe.remote(), NODE_TIMEOUT_S)
    except TimeoutError:
        return f"{where} did not answer within {NODE_TIMEOUT_S:g} s"
    except ray.exceptions.RayError as error:
        return f"{where} cannot run our code: {last_line(error)}"
    return f"{where}: {', '.join(found)}" if (found := differences(here, there)) else None


def _answers() -> dict[str, tuple[float, dict[str, str]]]:
    """Return when nodes were last asked and had the versions of the process that asked, by node id."""
    from ray.experimental import internal_kv

    text = internal_kv._internal_kv_get(KEY)
    return json.loads(text) if text else {}


def _keep(answers: dict[str, tuple[float, dict[str, str]]]) -> None:
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(KEY, json.dumps(answers).encode())
