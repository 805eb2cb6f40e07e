"""What lanes count reaches Prometheus: real lanes, real Postgres, a real gateway, and the real linter."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.lanes import lease
from organism_flows.flows.lanes.lane import Lane
from organism_flows.serve_apps.gateway.metrics.lane_metrics import lane_metrics
from organism_flows.serve_apps.gateway.metrics.organ_metrics import Organs
from organism_flows.serve_apps.gateway.organism_link import OrganismByHttp
from tests.support.flows.processes import start
from tests.support.flows.running_lanes import TIMEOUT, running, submit, until_settled
from tests.support.gateway.organism_says import organism_says
from tests.support.gateway.running import Gateway
from tests.support.scripted_organism import ScriptedOrganism
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _counted_at_every_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("organism_flows.serve_apps.gateway.metrics.metrics.READ_SHARE", 0)


@pytest.fixture
async def queue(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Queue]:
    # Counts come with renewals: these are frequent, and the lease outlasts a machine that stands still.
    monkeypatch.setattr(lease, "RENEWALS_A_LEASE", 120)
    async with Queue(database, lease_s=60, backoff_base_s=0.02, backoff_cap_s=0.1) as queue:
        yield queue


async def samples(gateway: Gateway) -> dict[str, float]:
    """Of metrics that are sums, by name and labels."""
    text = (await gateway.http.get("/metrics")).text
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in ("counter", "histogram") and family.name.startswith("organism_l")
        for sample in family.samples
    }


async def test_real_lanes_are_counted(gateway: Gateway, queue: Queue) -> None:
    before = await samples(gateway)
    assert before["organism_lane_claims_total"] == 0
    assert set(before.values()) == {0}, "all are there from the start, or their first rise cannot be seen"
    organism = ScriptedOrganism()
    await submit(queue, *["ok"] * 57, *["fail"] * 2, "reject", max_attempts=3)
    summary = await asyncio.wait_for(Lane(queue, organism, batch_size=10, until_empty=True).run(), TIMEOUT)
    await until(lambda: settled_of(gateway, 60))
    after = await samples(gateway)
    assert after["organism_lane_claims_total"] == summary.claimed == 64
    assert after["organism_lane_settlements_total completed"] == 57
    assert after["organism_lane_settlements_total failed"] == 3
    assert after["organism_lane_retries_total"] == 4
    assert after["organism_lane_batch_size_count"] == after["organism_lane_call_seconds_count"]
    assert after["organism_lane_batch_size_count"] == summary.calls
    assert after["organism_lane_batch_size_sum"] == 64
    assert after["organism_lane_batch_size_bucket 10"] == summary.calls
    assert 0 < after["organism_lane_call_seconds_sum"] < TIMEOUT * summary.calls
    assert after.keys() == before.keys()


async def settled_of(gateway: Gateway, tasks: int) -> bool:
    found = await samples(gateway)
    return sum(found[f"organism_lane_settlements_total {s}"] for s in ("completed", "failed")) >= tasks


async def test_a_stale_outcome_and_an_interrupted_task_are_counted(gateway: Gateway, queue: Queue) -> None:
    organism = ScriptedOrganism()
    [stale, _] = await submit(queue, "hang", "interrupt")
    lane = Lane(queue, organism, until_empty=True)
    async with running(lane) as run:
        await until_settled(lane, 1)
        # Somebody else's claim, newer than ours.
        await pool_of(queue).execute(
            "UPDATE tasks SET claim = nextval('task_claims') WHERE id::text = $1", stale
        )
        organism.let_go.set()
        await until(lambda: lane.summary.stale == 1)
        await pool_of(queue).execute(
            "UPDATE tasks SET status = 'cancelled', locked_by = NULL WHERE id::text = $1", stale
        )
        await asyncio.wait_for(run, TIMEOUT)
    await until(lambda: settled_of(gateway, 1))
    found = await samples(gateway)
    assert found["organism_lane_stale_writes_total"] == 1
    assert found["organism_lane_released_total"] == 1
    assert found["organism_lane_claims_total"] == 3


async def test_what_a_killed_lane_told_is_neither_lost_nor_counted_twice(
    gateway: Gateway, queue: Queue, database: str
) -> None:
    await queue.submit([NewTask(type="ok")] * 20)
    await queue.submit([NewTask(type="hang", priority=-1)])
    lane = start(["-m", "tests.support.flows.frozen_lane", database, "1.5"])
    try:
        # All of it is in a heartbeat while the lane lives.
        await until(lambda: settled_of(gateway, 20))
    finally:
        lane.kill()
        lane.wait()
    told = await samples(gateway)
    assert told["organism_lane_claims_total"] == 21
    looks = [told]

    async def reaped() -> bool:
        looks.append(await samples(gateway))
        await queue.leases.reap()
        return not await queue.reader.lanes()

    await until(reaped)
    looks.append(await samples(gateway))
    lost = {"organism_lanes_lost_total": 1, "organism_lease_losses_total": 1}
    assert looks[-1] == told | lost
    for before, after in pairwise(looks):
        assert all(after[name] >= value for name, value in before.items()), "a counter fell"


def test_tasks_that_ended_with_their_lane_are_dead_letters_too() -> None:
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in lane_metrics({"failed": 1, "reaped.failed": 2, "reaped.cancelled": 4})
        for sample in family.samples
    }
    ended = [
        told["organism_lane_settlements_total", status] for status in ("completed", "failed", "cancelled")
    ]
    assert ended == [0, 3, 4]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
async def test_the_linter_of_prometheus_finds_nothing_wrong(gateway: Gateway, queue: Queue) -> None:
    await submit(queue, "ok", "fail")
    organs = {"a": {"in_flight": 1, "waiting": 2}}
    async with organism_says({"status": "healthy", "replica": "r1", "organs": organs}) as url:
        gateway.parts.metrics.organs = Organs(OrganismByHttp(lambda: url))
        text = (await gateway.http.get("/metrics")).text
    assert "organism_organ_in_flight" in text
    linted = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, timeout=30
    )
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, b"")


# The organism


def found_in(organs: Organs) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in organs.collect()
        for sample in family.samples
    }


async def test_organs_of_replicas_that_answered_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[str] = []
    organs = Organs(OrganismByHttp(lambda: known[0] if known else None))
    await organs.refresh()
    assert found_in(organs) == {}, "nobody said where it is"
    async with organism_says(
        {"status": "healthy", "replica": "r1", "organs": {"a": {"in_flight": 1, "waiting": 2}}},
        {
            "status": "healthy",
            "replica": "r2",
            "organs": {"a": {"in_flight": 3, "waiting": 0}, "b": {"in_flight": 0, "waiting": 9}},
        },
    ) as url:
        known.append(url)
        await organs.refresh()
        await organs.refresh()
        assert found_in(organs) == {
            ("organism_up",): 1,
            ("organism_organ_in_flight", "a", "r1"): 1, ("organism_organ_waiting", "a", "r1"): 2,
            ("organism_organ_in_flight", "a", "r2"): 3, ("organism_organ_waiting", "a", "r2"): 0,
            ("organism_organ_in_flight", "b", "r2"): 0, ("organism_organ_waiting", "b", "r2"): 9,
        }  # fmt: skip
        monkeypatch.setattr("organism_flows.serve_apps.gateway.metrics.organ_metrics.KEPT_S", 0)
        await organs.refresh()
        assert found_in(organs).keys() == {("organism_up",)}
    await organs.refresh()
    assert found_in(organs)["organism_up",] == 0, "it is away"


async def test_copies_and_suspects_are_told_of_all_replicas() -> None:
    said = {"status": "healthy", "replica": "r1", "organs": {"a": {"in_flight": 1, "waiting": 2}}}
    replicas = [
        {"replica": "r1", "draining": False, "organs": {"a": {"suspects": 1, "lingering": 0}}},
        {"replica": "r2", "draining": True, "organs": {"a": {"suspects": 0, "lingering": 3}}},
    ]
    async with organism_says(said, running={"replicas": replicas}) as url:
        organs = Organs(OrganismByHttp(lambda: url))
        await organs.refresh()
        found = found_in(organs)
    assert found["organism_organ_suspects", "a", "r1"] == 1
    assert found["organism_organ_lingering", "a", "r2"] == 3
    assert found["organism_replicas_draining",] == 1
    await organs.refresh()
    assert found_in(organs).keys() == {("organism_up",)}, "it is away"


@pytest.mark.parametrize("answer", [{}, {"organs": {"a": {}}}, [], {"organs": {"a": {"in_flight": "many"}}}])
async def test_an_organism_that_answers_nonsense_is_not_up(answer: object) -> None:
    async with organism_says(answer) as url:
        organs = Organs(OrganismByHttp(lambda: url))
        await organs.refresh()
    assert found_in(organs)["organism_up",] == 0
