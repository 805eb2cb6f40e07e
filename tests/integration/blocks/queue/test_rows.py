"""Whatever row the table can hold, everything goes on for all others, and the row can be read."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import (
    NewTask,
    Outcomes,
    Queue,
    RedriveFilter,
    TaskFilter,
    migrate,
)
from organism_flows.blocks.queue.explain import Why
from organism_flows.blocks.queue.wire import Cause
from organism_flows.deployments.cli.commands.tasks.reads import _describe
from organism_flows.deployments.cli.output import without_controls
from organism_flows.flows.verification import queue_checks as verification
from organism_flows.flows.verification.thresholds import Thresholds
from organism_flows.serve_apps.gateway.metrics.lane_metrics import lane_metrics
from tests.support.log_lines import LogLines
from tests.support.queue.hostile_rows import ROWS, RULES, STATUSES, WORST, insert, take_any_row
from tests.support.queue.older_schema import OLDER_SCHEMA
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
CAUSES: tuple[Cause, ...] = ("completed", "failed", "rejected", "timed_out", "cancelled")


async def read_everything(queue: Queue, ids: list[UUID]) -> None:
    """Call every reader there is."""
    await queue.reader.counts()
    await queue.reader.depths()
    list(lane_metrics(await queue.reader.lane_figures()))
    await queue.reader.remaining()
    await queue.reader.outlook()
    await queue.health.long_running(1.0)
    await queue.health.dead_letters(at_most=10)
    await queue.health.most_interrupted(at_most=10)
    _ = (await queue.health.long_work()).notes
    await queue.health.failures_since(BEGINNING)
    await queue.reader.states(ids)
    await queue.reader.results("d")
    await queue.operator.policies()
    await queue.operator.pauses()
    for lane in await queue.reader.lanes():
        lane.model_dump_json()
    for filter in (TaskFilter(), TaskFilter(error="o")):
        for line in await queue.reader.page(filter, limit=100):
            line.model_dump_json()
    await queue.operator.cancellable(TaskFilter(type="hostile"))
    await queue.operator.redrivable(RedriveFilter(cancelled=True))
    await verification.check(queue, Thresholds())
    for task in ids:
        row = await queue.get(str(task))
        row.model_dump_json()
        assert "\x1b" not in without_controls(_describe(row))
        assert isinstance(await queue.reader.why(str(task), served=["hostile"]), Why)


async def put_through(queue: Queue, lane: str, healthy: list[UUID]) -> None:
    """Every operation of a lane and of an operator, until the healthy tasks are done."""
    await queue.leases.reap()
    done: set[str] = set()
    for turn in range(40):
        batch = await queue.claims.claim(lane, 3)
        await queue.claims.begun(batch)
        await queue.leases.renew(lane)
        await queue.claims.cancel_requests(lane)
        outcomes = Outcomes()
        left: list[int] = []
        for position, task_type in enumerate(batch.types):
            if task_type == "healthy":
                outcomes.add(position, "completed", result="1")
                done.add(batch.ids[position])
            elif turn % 3 == 2:
                left.append(position)
            else:
                outcomes.add(position, CAUSES[(turn + position) % len(CAUSES)], result="1", error="x")
        await queue.claims.settle(lane, batch, outcomes)
        cause = "interrupted" if turn % 2 else "replica_lost"
        await queue.claims.release(lane, batch.take(left), cause=cause, error="x\x00", suspicion=1)
        if len(done) == len(healthy) and turn > 5:
            break
    await queue.claims.release_unanswered(lane, holding=[])
    for task in healthy:
        assert (await queue.get(str(task))).status == "completed"


@pytest.fixture(scope="module")
async def any_rows(databases: Any) -> Any:
    async with Queue(await databases.create(), backoff_base_s=0.001, backoff_cap_s=0.001) as queue:
        yield queue


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(ROWS, min_size=1, max_size=4))
@example(rows=[{**WORST, "status": status} for status in STATUSES])
@example(rows=[{**WORST, "status": status, "attempts": -(2**31), "run_after": "now"} for status in STATUSES])
async def test_whatever_the_table_holds_the_others_go_on(any_rows: Queue, rows: list[dict[str, Any]]) -> None:
    queue = any_rows
    # Nothing is passed over: every one of these rows can be claimed, settled and taken back.
    heard = LogLines()
    logging.getLogger("organism.queue").addHandler(heard)
    async with pool_of(queue).acquire() as connection:
        await connection.execute("TRUNCATE tasks, lanes, lane_totals, pauses, task_types CASCADE")
        await take_any_row(connection)
        hostile = [await insert(connection, row) for row in rows]
    healthy = await queue.submit([NewTask(type="healthy") for _ in range(3)])
    await queue.leases.register("lane")
    await read_everything(queue, [*hostile, *healthy])
    await put_through(queue, "lane", healthy)
    await read_everything(queue, [*hostile, *healthy])
    await queue.operator.cancel(hostile)
    await queue.operator.retry(hostile)
    await queue.operator.start(hostile)
    await queue.operator.redrive(RedriveFilter(cancelled=True), actor="test", page=2)
    async for _ in queue.operator.cancel_all(TaskFilter(type="hostile")):
        pass
    for status in ("completed", "failed", "cancelled"):
        await queue.maintenance.prune(status, older_than_s=1e6, page=2)
    await queue.leases.deregister("lane")
    await queue.leases.reap()
    assert await queue.reader.states(healthy)
    logging.getLogger("organism.queue").removeHandler(heard)
    assert heard.lines == []


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("attempts", 2**31 - 1, RULES[0]),
        ("timed_out", -1, RULES[0]),
        ("lease_lost", 2**31 - 1, RULES[0]),
        ("claim", 2**63 - 1, RULES[0]),
        ("created_at", "4713-01-01 BC", RULES[1]),
        ("run_after", "294276-01-01", RULES[1]),
        ("type", "x" * 1001, RULES[2]),
        ("dedup_key", "x" * 1001, RULES[2]),
    ],
)
async def test_a_new_row_is_refused_by_name(queue: Queue, column: str, value: Any, rule: str) -> None:
    fine = {"type": "t", "created_at": "now", "run_after": "infinity"}
    await insert(pool_of(queue), fine)
    with pytest.raises(asyncpg.CheckViolationError, match=rule) as refused:
        await insert(pool_of(queue), {**fine, column: value})
    assert refused.value.constraint_name == rule
    assert (await queue.reader.counts())["queued"] == 1


async def refuse_updates_of(queue: Queue, condition: str) -> None:
    """As a trigger of the user's own does that has a mistake in it."""
    await pool_of(queue).execute(
        "CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no updates of %', OLD.type; END $$"
    )
    await pool_of(queue).execute(
        f"CREATE TRIGGER own BEFORE UPDATE ON tasks FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION own()"
    )


async def test_a_row_that_cannot_be_claimed_is_a_dead_letter(queue: Queue) -> None:
    await refuse_updates_of(queue, "NEW.status = 'running' AND OLD.type = 'odd'")
    [odd, *_] = await queue.submit([NewTask(type=t) for t in ("odd", "t", "t", "odd")])
    await queue.leases.register("lane")
    claimed: list[str] = []
    while len(batch := await queue.claims.claim("lane", 10)):
        claimed += batch.types
    assert claimed == ["t", "t"]
    dead = await queue.get(str(odd))
    assert dead.status == "failed"
    assert dead.error == "it cannot be claimed: no updates of odd"
    assert (await queue.reader.counts())["failed"] == 2


async def test_a_row_that_cannot_be_written_at_all_is_named_and_passed_over(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.submit([NewTask(type=t) for t in ("odd", "t", "odd", "t", "t")])
    await queue.leases.register("lane")
    batch = await queue.claims.claim("lane", 10)
    await refuse_updates_of(queue, "OLD.type = 'odd'")
    await queue.claims.begun(batch)
    assert await pool_of(queue).fetchval("SELECT count(*) FROM tasks WHERE begun_at IS NOT NULL") == 3
    outcomes = Outcomes()
    for position in range(3):
        outcomes.add(position, "completed", result="1")
    with caplog.at_level(logging.ERROR):
        settled = await queue.claims.settle("lane", batch.take([0, 1, 2]), outcomes)
    odd = [i for i, t in zip(batch.ids, batch.types, strict=True) if t == "odd"]
    assert set(settled.stale) == set(odd) & set(batch.ids[:3])
    assert all(f"task {task} cannot be settled" in caplog.text for task in settled.stale)
    # What is left is taken back from the lane when it is gone, but for these.
    assert await queue.claims.release_unanswered("lane", holding=[]) == []
    await queue.leases.deregister("lane")
    reaped = await queue.leases.reap()
    assert reaped.retried == 5 - 2 - (3 - len(settled.stale))
    assert "cannot be taken back from a lost lane" in caplog.text
    await queue.leases.register("other")
    assert set((await queue.claims.claim("other", 10)).types) == {"t"}


async def test_upkeep_passes_over_a_row_that_cannot_be_written(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await queue.submit([NewTask(type=t) for t in ("t", "odd", "t", "t", "odd", "t")])
    await queue.leases.register("lane")
    for _ in range(2):
        batch = await queue.claims.claim("lane", 10)
        outcomes = Outcomes()
        for position in range(len(batch)):
            outcomes.add(position, "rejected", error="x")
        await queue.claims.settle("lane", batch, outcomes)
    await refuse_updates_of(queue, "OLD.type = 'odd'")
    await pool_of(queue).execute("CREATE TABLE own_rows (task uuid REFERENCES tasks (id))")
    await pool_of(queue).execute("INSERT INTO own_rows SELECT id FROM tasks WHERE type = 'odd'")
    assert (await queue.operator.redrive(RedriveFilter(), actor="test", page=3)).redriven == 4
    assert caplog.text.count("cannot be redriven") == 2
    assert len((await queue.operator.cancel(ids)).cancelled) == 4
    assert len((await queue.operator.retry(ids)).retried) == 4
    assert len((await queue.operator.cancel(ids)).cancelled) == 4
    with pytest.raises(ConfigurationError, match=f"refuses to retry task {ids[1]}: no updates of odd"):
        await queue.operator.retry([ids[1]])
    assert await queue.maintenance.prune("failed", older_than_s=-1, page=10) == 0
    assert caplog.text.count("cannot be deleted") == 2
    assert await queue.maintenance.prune("cancelled", older_than_s=-1) == 4


async def test_an_adopted_table_may_hold_null(databases: Any) -> None:
    dsn = await databases.create(migrated=False)
    connection = await asyncpg.connect(dsn)
    # As the older system made it, but for its NOT NULLs.
    await connection.execute(OLDER_SCHEMA.replace("NOT NULL", ""))
    await connection.execute(
        "INSERT INTO tasks (type, status, params, attempts, drift_score, created_at, updated_at) VALUES "
        "('null', 'queued', NULL, NULL, NULL, NULL, NULL), ('null', 'failed', NULL, NULL, NULL, NULL, NULL)"
    )
    await connection.close()
    await migrate(dsn)
    async with Queue(dsn) as queue:
        ids = [line.id for line in await queue.reader.page(TaskFilter())]
        assert len(ids) == 7
        await read_everything(queue, ids)
        await queue.leases.register("lane")
        batch = await queue.claims.claim("lane", 10)
        [position] = [p for p, t in enumerate(batch.types) if t == "null"]
        assert (batch.params[position], batch.attempts[position], batch.drift_scores[position]) == (
            "{}",
            1,
            0,
        )
        outcomes = Outcomes()
        outcomes.add(position, "failed", error="x")
        assert (await queue.claims.settle("lane", batch, outcomes)).statuses == {batch.ids[position]: "retry"}
        await read_everything(queue, ids)


async def test_a_row_that_takes_too_long_to_claim_is_passed_over(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one whose params are a gigabyte of text."""
    monkeypatch.setattr("organism_flows.blocks.queue.stores.claiming.claim_lines.CLAIM_TIMEOUT", 0.5)
    await pool_of(queue).execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$; "
        "CREATE TRIGGER slow BEFORE UPDATE ON tasks FOR EACH ROW "
        "WHEN (NEW.status = 'running' AND OLD.domain = 'slow') EXECUTE FUNCTION slow()"
    )
    await queue.submit([NewTask(type="t", domain="slow" if n == 1 else None) for n in range(5)])
    await queue.submit([NewTask(type="u")])
    await queue.leases.register("lane")
    lines, claimed = queue.claims.lines("lane"), 0
    for _ in range(100):
        with suppress(TimeoutError):
            claimed += len(await lines.claim(100, lambda _: 100))
        if claimed == 5:
            break
    assert claimed == 5
    assert "cannot be claimed: TimeoutError" in caplog.text
    assert (await queue.reader.counts())["queued"] == 1
