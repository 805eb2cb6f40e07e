"""What verify finds when each thing is broken for real, and what it says to do."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule

from organism_flows.blocks.errors import QueueUnavailable
from organism_flows.blocks.finding import Finding
from organism_flows.blocks.long_work import OrganismWork, OrganWork
from organism_flows.blocks.queue import Closing, NewTask, Queue
from organism_flows.blocks.queue.db.migrate import pending
from organism_flows.deployments.cli.exit_codes import OF_VERIFY
from organism_flows.flows.lanes.lane import Lane
from organism_flows.flows.verification import (
    canary,
    cluster_checks,
    postgres_checks,
    queue_checks,
    settings_checks,
)
from organism_flows.flows.verification import gateway_checks as gateway_check
from organism_flows.flows.verification import prefect_checks as prefect_check
from organism_flows.flows.verification.thresholds import Thresholds
from organism_flows.flows.verification.verification import Verification, markdown, run_check
from tests.support.flows.running_lanes import running, submit
from tests.support.gateway.running import running as running_gateway
from tests.support.local_organism import LocalOrganism
from tests.support.proxy import proxied
from tests.support.scripted_organism import ScriptedOrganism
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue(database: str) -> AsyncIterator[Queue]:
    async with Queue(database, lease_s=15) as queue:
        yield queue


def named(findings: list[Finding]) -> dict[str, Finding]:
    assert len({f.check for f in findings}) == len(findings)
    for f in findings:
        assert (f.action == "") == (f.status == "ok"), f"{f.check} says what to do just when it is not ok"
        assert "\n" not in f.evidence + f.action
    return {f.check: f for f in findings}


async def test_an_idle_queue_is_well(queue: Queue) -> None:
    found = named(await postgres_checks.check(queue) + await queue_checks.check(queue, Thresholds()))
    assert {f.status for f in found.values()} == {"ok"}
    assert "PostgreSQL 1" in found["postgres: reachable"].evidence


async def test_migrations_that_are_missing_are_named(queue: Queue) -> None:
    newest = (await pending_after(queue, "0001"))[-1]
    await pool_of(queue).execute("UPDATE organism_migrations SET version_num = '0001'")
    found = named(await postgres_checks.check(queue))["postgres: migrated"]
    assert (found.status, newest in found.evidence) == ("failed", True)


async def pending_after(queue: Queue, version: str) -> list[str]:
    await pool_of(queue).execute("UPDATE organism_migrations SET version_num = $1", version)
    return await pending(queue.dsn)


async def test_a_starved_key_is_named(queue: Queue) -> None:
    await queue.submit([NewTask(type="t|y", key="acme", domain="d")])
    await pool_of(queue).execute(
        "UPDATE tasks SET created_at = now() - interval '1 h', run_after = now() - interval '1 h'"
    )
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, key, status, finished_at) "
        "SELECT 't|y', 'other', 'completed', now() FROM generate_series(1, 50)"
    )
    found = named(await queue_checks.check(queue, Thresholds()))["queue: starved"]
    assert found.status == "degraded"
    assert "1 wait while others of their priority run: type t|y, domain d, key acme, priority 0: for 3,6" in (
        found.evidence
    )
    assert named(await queue_checks.check(queue, Thresholds(starved_s=7200)))["queue: starved"].status == "ok"


async def test_a_transaction_left_open_is_named(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_checks, "OLD_SNAPSHOT_S", 0.0)
    async with pool_of(queue).acquire() as session, session.transaction():
        await session.execute("SET LOCAL application_name = 'a report'")
        await session.fetchval("SELECT count(*) FROM tasks")
        found = named(await postgres_checks.check(queue))["postgres: oldest transaction"]
    assert (found.status, "a report" in found.evidence) == ("degraded", True)


async def test_connections_that_run_out_and_clocks_that_differ_are_named(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_checks, "FEW_CONNECTIONS", 1000)
    monkeypatch.setattr(postgres_checks, "SKEW_S", -1.0)
    found = named(await postgres_checks.check(queue))
    assert found["postgres: connections"].status == found["postgres: clock"].status == "degraded"


async def test_what_waits_is_stuck_or_has_died_is_named(queue: Queue) -> None:
    await queue.submit([NewTask(type="t")] * 3)
    await pool_of(queue).execute("UPDATE tasks SET run_after = now() - interval '1 hour'")
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, status, locked_by, locked_at) VALUES ('t', 'running', 'gone', now())"
    )
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, status) SELECT 't', 'failed' FROM generate_series(1, 5)"
    )
    found = named(await queue_checks.check(queue, Thresholds(dead_letters=4)))
    assert {name for name, f in found.items() if f.status == "degraded"} == {
        "queue: stuck",
        "queue: dead letters",
        "lanes: alive",
    }
    assert "t: 3 ready" in found["queue: waiting"].evidence, "by when they were added, not by run_after"
    await pool_of(queue).execute("UPDATE tasks SET created_at = now() - interval '1 hour'")
    found = named(await queue_checks.check(queue, Thresholds(dead_letters=4)))
    assert found["queue: waiting"].status == "degraded"
    assert "oldest for 36" in found["queue: waiting"].evidence


async def test_a_gateway_that_is_gone_or_of_no_use_is_named(database: str) -> None:
    async with running_gateway(database) as gateway:
        found = named(await gateway_check.check(gateway.url))["gateway: routes"]
        assert (found.status, "degraded" in found.evidence) == ("ok", True), (
            "the organism is no matter of its"
        )
    assert named(await gateway_check.check(gateway.url))["gateway: routes"].status == "failed"
    async with proxied(database) as proxy:
        proxy.refuse()
        async with running_gateway(proxy.dsn) as gateway:
            found = named(await gateway_check.check(gateway.url))["gateway: routes"]
            assert (found.status, "503" in found.evidence) == ("failed", True)


async def test_what_is_closed_for_long_is_named(queue: Queue) -> None:
    closing = Closing(kind="type", name="t", key="acme", until=datetime(2100, 1, 1, tzinfo=UTC), reason="429")
    await queue.operator.close(closing)
    assert named(await queue_checks.check(queue, Thresholds()))["queue: closed"].status == "ok"
    found = named(await queue_checks.check(queue, Thresholds(closed_s=1e-9)))["queue: closed"]
    assert found.status == "degraded"
    assert "type t for key acme since" in found.evidence
    assert "(429)" in found.evidence


async def test_what_is_paused_is_named_with_its_reason(queue: Queue) -> None:
    await queue.operator.pause("type", "shout", reason="bad release")
    found = named(await queue_checks.check(queue, Thresholds()))["queue: paused"]
    assert (found.status, found.evidence) == ("degraded", "type shout (bad release)")
    assert "`organism tasks resume --type shout`" in found.action


async def test_the_canary_goes_through_a_lane(queue: Queue) -> None:
    organism = ScriptedOrganism()
    assert named(await canary.check(queue, Thresholds()))["canary"].status == "degraded", "there is no lane"
    async with running(Lane(queue, organism)):
        async with asyncio.timeout(30):
            while not await queue.reader.lanes():
                await asyncio.sleep(0.02)
        found = named(await canary.check(queue, Thresholds()))["canary"]
    assert (found.status, found.evidence.startswith("completed ")) == ("ok", True)


async def test_a_canary_that_no_organ_serves_says_what_to_add(queue: Queue) -> None:
    handler = "organism_flows.serve_apps.organism.handlers.basics:handle"
    config = {
        "organs": [{"id": "mine", "task_types": ["mine"], "handler": handler}],
        "include_builtin": False,
    }
    async with running(Lane(queue, LocalOrganism(config))):
        async with asyncio.timeout(30):
            while not await queue.reader.lanes():
                await asyncio.sleep(0.02)
        found = named(await canary.check(queue, Thresholds()))["canary"]
    assert (found.status, "no organ serves type 'health_check'" in found.evidence) == ("failed", True)
    assert "include_builtin: true" in found.action


async def test_a_canary_that_does_not_come_back_is_cancelled(queue: Queue) -> None:
    await queue.leases.register("a lane that does nothing")
    found = named(await canary.check(queue, Thresholds(canary_s=0.3)))["canary"]
    assert found.status == "failed"
    assert "after 0.3 s task " in found.evidence
    assert " is due and in line: it is the first of its type, priority, domain and key" in found.evidence
    assert "organism tasks why" in found.action
    assert (await queue.reader.counts())["cancelled"] == 1


async def test_a_canary_that_waits_on_a_replica_says_what_it_waits_behind(queue: Queue) -> None:
    await queue.submit([NewTask(type=canary.TYPE, priority=2_000_000)] * 2)
    await queue.leases.register("lane")
    claimed = await queue.claims.claim("lane", 2)
    await queue.claims.begun(claimed)

    async def claim_it() -> None:
        while not len(await queue.claims.claim("lane", 1)):
            await asyncio.sleep(0.02)
        await pool_of(queue).execute(
            "UPDATE tasks SET locked_at = locked_at - interval '9 s' WHERE domain = 'canary'"
        )

    claiming = asyncio.create_task(claim_it())
    found = named(await canary.check(queue, Thresholds(canary_s=1.0)))["canary"]
    await claiming
    assert found.status == "failed"
    assert (
        "and waits there for a handler behind 2 others of its type that run, the oldest since"
        in found.evidence
    )


async def test_lanes_that_leave_are_named_and_no_canary_is_sent_to_them(queue: Queue) -> None:
    await queue.submit([NewTask(type="t")] * 2)
    await queue.leases.register("lane", run="run")
    await queue.claims.claim("lane", 1)
    await queue.operator.request_leave("run")
    found = named(await queue_checks.check(queue, Thresholds()))
    assert found["lanes: leaving"].evidence.startswith("1 lane leaves since ")
    assert "(1 task), until its tasks end, the oldest is held since" in found["lanes: leaving"].evidence
    assert found["lanes: alive"].status == "degraded"
    assert "none claims (1 are leaving or stopping)" in found["lanes: alive"].evidence
    assert "no lane claims" in named(await canary.check(queue, Thresholds()))["canary"].evidence


async def test_suspects_and_tasks_that_are_interrupted_again_and_again_are_named(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="t")])
    await queue.leases.register("lane")
    for _ in range(3):
        batch = await queue.claims.claim("lane", 1)
        await queue.claims.release("lane", batch, cause="interrupted", error="x", suspicion=1)
    await queue.claims.claim("lane", 1)
    await pool_of(queue).execute("UPDATE tasks SET locked_at = locked_at - interval '2 minutes'")
    found = named(await queue_checks.check(queue, Thresholds()))
    assert found["queue: interrupted"].status == "degraded"
    assert f"1 unfinished task was interrupted more than twice (t {task_id}: 3 times)" in (
        found["queue: interrupted"].evidence
    )
    assert found["queue: suspects"].evidence == "1 suspect runs in a process of its own"
    waiting = found["queue: waiting on replicas"]
    assert (waiting.status, waiting.evidence[:20]) == ("ok", "1 task on a replica ")


def test_copies_are_named_and_an_organism_that_does_not_tell_is_not() -> None:
    assert cluster_checks.copies(None) == []
    [found] = cluster_checks.copies(OrganismWork())
    assert found.status == "ok"
    [found] = cluster_checks.copies(OrganismWork((OrganWork("r", "train", True, 0, 2),), draining=1))
    assert (found.status, found.evidence) == (
        "degraded",
        "2 handlers that were asked to stop still run (train: 2); "
        "1 replica is draining: it ends the tasks it has",
    )


@pytest.mark.parametrize(
    ("prefect", "fastapi", "sqlalchemy", "status"),
    [
        ("3.8.8", "0.141.1", "2.0.58", "ok"),
        ("3.8.8", "0.150.0", "2.0.58", "ok"),
        ("3.8.8", "0.151.0", "2.0.58", "failed"),
        ("3.8.8", "1.0.0", "2.0.58", "failed"),
        ("3.8.8", "0.141.1", "2.1.9", "failed"),
        ("3.9.0", "0.160.0", "2.1.9", "ok"),
    ],
)
def test_versions_known_not_to_go_together(prefect: str, fastapi: str, sqlalchemy: str, status: str) -> None:
    found = settings_checks.versions(prefect, fastapi, sqlalchemy)
    assert found.status == status
    for number in (prefect, fastapi, sqlalchemy):
        assert number in found.evidence


async def test_settings_are_told_with_where_they_come_from_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORGANISM_DSN", "postgresql://me:hush@nowhere/x")
    monkeypatch.setenv("LEASE_SECONDS", "7")
    with pytest.warns(FutureWarning, match="LEASE_SECONDS"):
        found = named(await settings_checks.check())["environment: settings"].evidence
    assert "dsn=*** (ORGANISM_DSN)" in found
    assert "lease_seconds=7.0 (LEASE_SECONDS, deprecated)" in found
    assert "batch_size=1000 (default)" in found
    assert "hush" not in found


async def test_a_check_that_fails_or_hangs_is_a_finding() -> None:
    async def hangs() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def breaks() -> list[Finding]:
        raise KeyError("odd")

    async def refuses() -> list[Finding]:
        raise QueueUnavailable("no Postgres at x", "start it")

    for check, words in (
        (hangs, "no answer within 0.05 s"),
        (breaks, "KeyError: 'odd'"),
        (refuses, "no Postgres"),
    ):
        [found] = await run_check("part", check, timeout_s=0.05)
        assert (found.status, words in found.evidence) == ("failed", True)


def test_with_nothing_there_every_part_says_so(tmp_path: Path) -> None:
    """In a process of its own: this one may be connected to a cluster."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RAY_"))}
    env |= {"ORGANISM_HOME": str(tmp_path), "ORGANISM_DSN": "postgresql://127.0.0.1:9/none"}
    ran = subprocess.run(
        [sys.executable, "-m", "organism_flows.deployments.cli.main", "verify", "--json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 2, ran.stderr
    found = json.loads(ran.stdout)
    checks = named([Finding.model_validate(f) for f in found["findings"]])
    for name in ("postgres: reachable", "ray", "serve", "prefect: api"):
        assert checks[name].status == "failed", name
    assert "127.0.0.1:9" in checks["postgres: reachable"].evidence


def test_the_worst_decides() -> None:
    def of(*statuses: Any) -> Verification:
        return Verification(findings=[Finding(check=s, status=s, evidence="x") for s in statuses])

    of_each = (of(), of("ok"), of("ok", "degraded"), of("degraded", "failed", "ok"))
    assert [OF_VERIFY[found.status] for found in of_each] == [0, 0, 1, 2]
    assert of("ok", "ok").line == "all 2 checks are ok"
    assert of("degraded", "failed").line == "failed failed: x; degraded degraded: x"
    table = markdown([Finding(check="a", status="ok", evidence="x | y")])
    assert table.splitlines()[-1] == "| a | ok | x \\| y |"
    told = markdown([Finding(check="a", status="failed", evidence="x", action="mend it")])
    assert told.splitlines()[0] == "- a: mend it"


async def test_submitted_work_is_told_by_type(queue: Queue) -> None:
    await submit(queue, "a", "a", "b")
    found = named(await queue_checks.check(queue, Thresholds()))["queue: waiting"]
    assert "a: 2 ready" in found.evidence
    assert "b: 1 ready" in found.evidence


def test_a_schedule_that_lacks_a_parameter_is_named() -> None:
    schema = {"required": ["files"], "properties": {"files": {"type": "string"}}}
    nightly = CronSchedule(cron="0 3 * * *")

    def deployed(**gives: Any) -> DeploymentResponse:
        schedule = DeploymentSchedule(schedule=nightly, active=gives.pop("active", True), parameters=gives)
        return DeploymentResponse(
            id=uuid4(),
            flow_id=uuid4(),
            name="organism",
            entrypoint="organism_flows.flows.submit.submit",
            parameter_openapi_schema=schema,
            schedules=[schedule],
            labels={},
        )

    assert prefect_check._schedules([deployed(files="/data/*.csv"), deployed(active=False)]) is None
    found = prefect_check._schedules([deployed(strict=False)])
    assert found is not None
    assert (found.check, found.status) == ("prefect: schedules", "degraded")
    assert "submit (0 3 * * *) gives no files" in found.evidence
    assert "`organism schedule submit off`" in found.action
