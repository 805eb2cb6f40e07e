"""On machines of its own: an external Postgres and Prefect, two Ray nodes, and flows on a fourth machine."""

from __future__ import annotations

import asyncio
import sys

import pytest

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.wire import WIRE_VERSION
from tests.clusters.cluster import Cluster
from tests.clusters.dispatching import dispatching, finish, hosts_of_lanes
from tests.clusters.machines import Machine, possible
from tests.support.history import check_history
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.soak,
    pytest.mark.skipif(possible() is not None, reason=possible() or ""),
]


async def submit(queue: Queue, count: int, seconds: float) -> list[str]:
    rows = await pool_of(queue).fetch(
        "INSERT INTO tasks (type, params) SELECT 'where', jsonb_build_object('seconds', $2::float8) "
        "FROM generate_series(1, $1::int) RETURNING id::text",
        count,
        seconds,
    )
    return [row["id"] for row in rows]


async def hosts_of_replicas(queue: Queue) -> set[str]:
    rows = await pool_of(queue).fetch(
        "SELECT DISTINCT result->>'host' AS host FROM tasks WHERE result IS NOT NULL"
    )
    return {row["host"] for row in rows}


async def counted(queue: Queue, status: str) -> int:
    # Ours: the worker runs verify every five minutes, which sends a task of its own.
    ours = "SELECT count(*) FROM tasks WHERE type = 'where' AND status = $1::taskstatus"
    return int(await pool_of(queue).fetchval(ours, status))


async def test_lanes_and_replicas_are_on_both_nodes_and_everything_completes(
    made: Cluster, queue: Queue
) -> None:
    ids = await submit(queue, 300, 0.2)
    running = dispatching(made, "--lanes", "4", "--until-empty")
    seen: set[str] = set()

    async def on_both() -> bool:
        seen.update(await hosts_of_lanes(queue))
        return seen >= {"head", "node"}

    await until(on_both)
    code, summary, err = await finish(running)
    assert code == 0, err
    assert summary["completed"] == 300
    assert seen == {"head", "node"}, "never on the machine of the flows, whose node takes no work"
    assert await hosts_of_replicas(queue) == {"head", "node"}
    await check_history(queue, ids)


async def test_verify_finds_nothing_failed(made: Cluster, queue: Queue) -> None:
    found = await asyncio.to_thread(made.organism, "verify", code=None)
    failed = [f for f in found["findings"] if f["status"] == "failed" and f["check"] != "canary"]
    assert not failed
    [versions] = [f for f in found["findings"] if f["check"] == "ray: versions"]
    assert versions["status"] == "ok", versions


def refusal(made: Cluster, *before: str, on: Machine | None = None, **env: str) -> str:
    """What `organism dispatch` says when it is refused, after ``before`` has been executed in its process."""
    command_line = "from organism_flows.deployments.cli.main import main"
    script = "; ".join([*before, "import sys", command_line, "sys.exit(main())"])
    command = [sys.executable, "-c", script, "dispatch", "--until-empty"]
    code, out, err = (on or made.flows).run(*command, env={**made.env, **env})
    assert code != 0, out
    assert "Traceback" not in out + err, out + err
    return " ".join((out + err).split())


def test_another_version_of_ray_is_refused(made: Cluster) -> None:
    # Faked in the flow's process, which tells Ray's own check.
    said = refusal(made, "import ray", "ray.__version__ = '2.59.0'")
    assert "is of another version: The cluster was started with: Ray: 2.60.0" in said, said
    assert "was started with: Ray: 2.59.0" in said, said


def test_another_wire_version_is_refused_before_anything_is_claimed(made: Cluster) -> None:
    # Faked in the flow's process; the replicas speak their own.
    other = WIRE_VERSION + 1
    said = refusal(made, "import organism_flows.blocks.queue.wire as wire", f"wire.WIRE_VERSION = {other}")
    assert f"replicas speak wire version {WIRE_VERSION} " in said, said
    assert f"would speak {other} " in said, said


async def test_a_lane_of_another_version_refuses_its_flow(made: Cluster, queue: Queue) -> None:
    # Faked in the flow's process, which says it is another; the nodes are what they are.
    await submit(queue, 1, 0)
    said = await asyncio.to_thread(
        refusal, made, "import organism_flows.blocks.versions as v", "v.package_version = lambda: '9.9.9'"
    )
    assert "9.9.9 where the flow runs" in said, said
    assert await counted(queue, "queued") == 1, "nothing was claimed"


def test_ray_client_is_refused(made: Cluster) -> None:
    said = refusal(made, RAY_ADDRESS=f"ray://{made.head.address}:10001")
    assert "Ray Client" in said, said
    assert "--num-cpus=0" in said, said


def test_a_machine_without_a_ray_node_is_refused(made: Cluster) -> None:
    said = refusal(made, on=made.services)
    assert "no Ray node runs on this machine" in said, said


def test_a_wrong_token_is_refused(made: Cluster) -> None:
    wrong = made.folder / "wrong"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    said = refusal(made, RAY_AUTH_TOKEN_PATH=str(wrong))
    assert "does not let us in" in said, said
    assert "RAY_AUTH_TOKEN_PATH" in said, said


async def test_a_node_that_is_cut_off_loses_nothing(made: Cluster, queue: Queue) -> None:
    """Last, because the node stays away."""
    ids = await submit(queue, 600, 0.5)
    running = dispatching(made, "--lanes", "4", "--until-empty", "--max-seconds", "180")

    async def at_work_on_the_node() -> bool:
        return "node" in await hosts_of_lanes(queue) and "node" in await hosts_of_replicas(queue)

    await until(at_work_on_the_node)
    made.node.kill()
    assert await counted(queue, "completed") < 600, "there was work left"
    code, summary, err = await finish(running, 240)
    assert code == 0, err
    assert await counted(queue, "completed") == 600, summary
    await check_history(queue, ids)
