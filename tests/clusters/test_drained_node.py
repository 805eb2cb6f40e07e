"""`ray drain-node` under load: what runs there continues elsewhere, and nothing is done twice or charged."""

from __future__ import annotations

import json
import sys
from collections import Counter

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from tests.clusters.cluster import GCS, Cluster
from tests.clusters.dispatching import dispatching, finish, hosts_of_lanes
from tests.clusters.machines import possible
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.soak,
    pytest.mark.skipif(possible() is not None, reason=possible() or ""),
]
TASKS, UNITS, UNIT_S = 24, 60, 0.5
DEADLINE_S = 60
NODES = """
import json, ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps({node["NodeManagerHostname"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}))
"""


def nodes(made: Cluster) -> dict[str, str]:
    """Ids of the Ray nodes that are there, by the names of their machines."""
    code, out, err = made.head.run(
        sys.executable, "-c", NODES, f"{made.head.address}:{GCS}", env=made.ray_env
    )
    assert code == 0, err
    found: dict[str, str] = json.loads(out.splitlines()[-1])
    return found


def drain(made: Cluster, node: str) -> None:
    """Take a node away as an autoscaler does whose machine is preempted."""
    code, out, err = made.head.run(
        *(sys.executable, "-m", "ray.scripts.scripts", "drain-node"),
        *("--address", f"{made.head.address}:{GCS}", "--node-id", node),
        *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"),
        *("--deadline-remaining-seconds", str(DEADLINE_S)),
        env=made.ray_env,
    )
    assert code == 0, out + err


async def test_a_drained_node_repeats_no_unit_and_charges_no_attempt(made: Cluster, queue: Queue) -> None:
    file = made.folder / "units"
    file.touch()
    file.chmod(0o666)
    params = {"units": UNITS, "seconds": UNIT_S, "file": str(file)}
    ids = await queue.submit([NewTask(type="units", params=params, max_attempts=1)] * TASKS)
    running = dispatching(made, "--lanes", "4", "--until-empty")

    def lines() -> list[list[str]]:
        return [line.split() for line in file.read_text().splitlines()]

    async def at_work_on_both() -> bool:
        hosts = {host for _, _, host in lines()}
        return len(lines()) > TASKS * UNITS / 10 and hosts == await hosts_of_lanes(queue) == {"head", "node"}

    await until(at_work_on_both, patience=180)
    drain(made, nodes(made)["node"])

    async def gone() -> bool:
        return "node" not in nodes(made)

    await until(gone, patience=DEADLINE_S + 60)
    assert len(lines()) < TASKS * UNITS, "there was work left"
    code, summary, err = await finish(running, 300)
    assert code == 0, err
    assert summary["lanes_died"] == 0, "lanes left the node by themselves"
    assert summary["lanes"] > 4, "others took their place"
    done = Counter((task, int(unit)) for task, unit, _ in lines())
    assert set(done) == {(str(task), unit) for task in ids for unit in range(UNITS)}
    assert set(done.values()) == {1}, f"{sum(done.values()) - len(done)} units were done again"
    rows = await pool_of(queue).fetch(
        "SELECT DISTINCT status::text, attempts, lease_lost, suspicion FROM tasks WHERE type = 'units'"
    )
    assert [tuple(row) for row in rows] == [("completed", 1, 0, 0)], "no attempt was charged"
    causes = await pool_of(queue).fetch("SELECT DISTINCT cause FROM task_attempts")
    assert {row["cause"] for row in causes} == {"interrupted"}
