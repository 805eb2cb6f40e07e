"""Group roles: each can do its part of the work by a login of its own, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from organism_flows.blocks.errors import QueueUnavailable
from organism_flows.blocks.finding import Finding
from organism_flows.blocks.queue import NewTask, Queue, RedriveFilter, TaskFilter, TypePolicy, migrate
from organism_flows.blocks.queue.db.listener import Listener
from organism_flows.blocks.queue.db.roles import (
    LANE,
    MIGRATOR,
    OPERATOR,
    ROLES,
    STATEMENTS,
    SUBMITTER,
    PrivilegeMissing,
)
from organism_flows.blocks.queue.db.statements import SQL, statement
from organism_flows.blocks.queue.stores.claiming.line_pages import lines_of
from organism_flows.blocks.queue.wire import Cause
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.cli import main as cli
from organism_flows.deployments.stack import local
from organism_flows.deployments.stack.addresses import plan
from organism_flows.deployments.stack.postgres.server import EmbeddedPostgres
from organism_flows.deployments.stack.progress import Event
from organism_flows.flows.verification import postgres_checks as verified_postgres
from organism_flows.flows.verification import queue_checks as verified_queue
from organism_flows.flows.verification.thresholds import Thresholds
from tests.support.clock import START, advance, set_clock
from tests.support.queue.bare_server import bare_server
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.queue.logins import execute, new_login
from tests.support.sql import database_of, pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio

NAMES = {path.stem for path in SQL.glob("*.sql")}
ALSO = {
    SUBMITTER: "attached database_health",
    LANE: """
        ahead ahead_by_deadline attached board_dead board_failures board_latency board_running board_waiting
        cancel cancellable close completed_lately counts counts_of database_health depths duplicates export
        finished limit_pace limit_use line_pace line_waits next_finished of_type open page page_of_few
        policies redrivable redrivable_sample results retriable sent_event start states status_size streams
        stuck
        to_cancel to_retry unheld weights
    """,
    OPERATOR: """
        cancel_requests earliest expiring_claimed limit_charge limit_costs limit_lock limit_odd
        limit_reconcile limit_spend lines next_in_line next_lines reapable reject release
        release_unanswered restored
    """,
}
"""Statements that a role is not for and can run all the same, because it reads or writes the same columns."""


@asynccontextmanager
async def queue_as(dsn: str, *roles: str) -> AsyncIterator[Queue]:
    async with Queue(await new_login(dsn, *roles), connections=2) as queue:
        yield queue


async def refused(dsn: str, *statements: str) -> list[str]:
    """Those of the statements that are not refused for want of a privilege; none of them has any effect."""
    allowed = []
    connection = await asyncpg.connect(dsn)
    try:
        for sql in statements:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(sql)
                allowed.append(sql)
            except asyncpg.InsufficientPrivilegeError:
                pass
            finally:
                await transaction.rollback()
    finally:
        await connection.close()
    return allowed


async def can_run(connection: asyncpg.Connection[Any], name: str) -> bool:
    """Whether Postgres lets a login run a statement; with NULL for every argument, and without effect."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        prepared = await connection.prepare(statement(name).text)
        await prepared.fetch(*[None] * len(prepared.get_parameters()))
    except asyncpg.InsufficientPrivilegeError:
        return False
    except asyncpg.NotNullViolationError:
        pass
    finally:
        await transaction.rollback()
    return True


DDL = (
    "CREATE TABLE mine (n int)",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION queue_now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT now()'",
    "ALTER TABLE tasks ADD COLUMN mine int",
    "ALTER TABLE tasks DISABLE TRIGGER ALL",
    "CREATE INDEX ON tasks (domain)",
    "DROP TABLE lanes CASCADE",
    "DROP FUNCTION tasks_refuse CASCADE",
    "TRUNCATE tasks CASCADE",
    "TRUNCATE lanes",
    "SELECT setval('task_claims', 1)",
    "ALTER TABLE tasks OWNER TO CURRENT_USER",
    "UPDATE organism_migrations SET version_num = '0001'",
    "CREATE ROLE another",
)
ASKED_FOR = (
    "type",
    "params",
    "description",
    "domain",
    "priority",
    "max_attempts",
    "timeout_s",
    "dedup_key",
    "id",
)


def test_every_statement_is_for_a_role() -> None:
    assigned = [name for names in STATEMENTS.values() for name in names.split()]
    assert sorted(assigned) == sorted(NAMES)


@pytest.fixture(scope="module")
async def careful(databases: Any) -> str:
    """URL of a database that gives nothing to everybody, with the queue in a schema of its own."""
    dsn: str = await databases.create(migrated=False)
    name = dsn.rpartition("?")[0].rpartition("/")[2]
    await execute(
        dsn,
        f"ALTER DATABASE {name} SET search_path = work; CREATE SCHEMA work; "
        "ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC; "
        "ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC",
    )
    assert await migrate(dsn) == []
    return dsn


@pytest.mark.parametrize("role", [SUBMITTER, LANE, OPERATOR])
async def test_a_role_can_run_its_statements_and_no_others(careful: str, role: str) -> None:
    connection = await asyncpg.connect(await new_login(careful, role))
    try:
        can = {name for name in NAMES if await can_run(connection, name)}
    finally:
        await connection.close()
    own = {name for roles, names in STATEMENTS.items() if role in roles for name in names.split()}
    assert own <= can
    assert can - own == set(ALSO[role].split())


async def test_a_login_without_a_role_can_do_nothing(database: str) -> None:
    connection = await asyncpg.connect(await new_login(database))
    try:
        can = {name for name in NAMES if await can_run(connection, name)}
    finally:
        await connection.close()
    assert can == {"attached", "now", "exclusive", "database_health"}


async def test_a_submitter_submits(database: str, queue: Queue, tmp_path: Path) -> None:
    async with queue_as(database, SUBMITTER) as submitter:
        new = NewTask(type="t", params={"n": 1}, dedup_key="k", priority=3, max_attempts=2, timeout_s=5)
        [first] = await submitter.submit([new])
        assert await submitter.submit([new]) == [first]
        [later] = await submitter.submit([NewTask(type="t", run_immediately=False)])
        assert await submitter.producer.load(NewTask(type="t") for _ in range(3)) == 3
        file = tmp_path / "tasks.jsonl"
        file.write_text('{"type": "t", "dedup_key": "k"}\n{"type": "t"}\n')
        assert (await submitter.producer.load_files([file])).added == 1
        assert (await submitter.producer.load_files([file])).added == 0
        await submitter.health.check_writes()
    assert (await queue.get(str(first))).max_attempts == 2
    assert (await queue.get(str(later))).status == "created"
    assert (await queue.reader.counts())["queued"] == 5


async def test_a_submitter_does_nothing_else(database: str, queue: Queue) -> None:
    await queue.submit([NewTask(type="t", params={"password": "x"})])
    counted = "attempts timed_out lease_lost interrupted suspicion claim"
    given = f"{counted} locked_by result error finished_at created_at"
    submitter = await new_login(database, SUBMITTER)
    assert not await refused(
        submitter,
        *DDL,
        *(f"INSERT INTO tasks (type, {column}) VALUES ('t', DEFAULT)" for column in given.split()),
        *(
            f"SELECT {column} FROM tasks"
            for column in ("params", "result", "error", "description", "*", "ctid")
        ),
        "INSERT INTO tasks (type) VALUES ('t') RETURNING params",
        "INSERT INTO tasks (id, type) VALUES (DEFAULT, 't') ON CONFLICT (id) DO UPDATE SET params = '{}'",
        "UPDATE tasks SET status = 'cancelled'",
        "UPDATE tasks SET priority = 9",
        "SELECT id FROM tasks FOR UPDATE",
        "DELETE FROM tasks",
        "COPY tasks TO STDOUT",
        "SELECT nextval('task_claims')",
        *(
            f"SELECT FROM {table}"
            for table in ("lanes", "lane_totals", "task_attempts", "task_types", "pauses", "task_audit")
        ),
    )


@pytest.mark.parametrize("status", ["running", "completed", "failed", "cancelled", "retry"])
async def test_who_may_only_insert_says_of_no_task_how_it_ended(
    database: str, queue: Queue, status: str
) -> None:
    row = f"INSERT INTO tasks (type, status) VALUES ('t', '{status}')"
    with pytest.raises(asyncpg.CheckViolationError, match=r"tasks_begin_waiting|tasks_running_is_held"):
        await execute(await new_login(database, SUBMITTER), row)
    if status != "running":
        await execute(database, row)  # an owner who brings an archive along


async def test_a_lane_does_the_work_of_dispatch_and_watchdog(
    database: str, queue: Queue, tmp_path: Path
) -> None:
    await set_clock(queue, START)
    await queue.operator.set_policy(TypePolicy(type="t", max_interruptions=9))
    await queue.operator.pause("type", "not now")
    await queue.submit([NewTask(type="t", domain=str(n)) for n in range(7)])
    (file := tmp_path / "tasks.jsonl").write_text('{"type": "not now"}\n')
    await queue.producer.load_files([file])
    async with queue_as(database, LANE) as lane, Listener(lane.direct_dsn) as listener:
        await asyncio.wait_for(listener.event.wait(), 60)
        batch = await claim(lane)
        assert len(batch) == 7
        [task] = [batch.ids[0]]
        await lane.claims.begun(batch)
        await lane.leases.renew("lane", settled=1, figures={"settled": 1})
        assert (await queue.operator.cancel([(await queue.get(task)).id])).requested
        assert list((await lane.claims.cancel_requests("lane")).values()) == [task]
        completed, failed, rejected, interrupted = (batch.take([n]) for n in range(1, 5))
        causes: tuple[Cause, ...] = ("completed", "failed", "rejected")
        for part, cause in zip((completed, failed, rejected), causes, strict=True):
            settled = await lane.claims.settle("lane", part, outcomes_of(part, cause, result="1", error="x"))
            assert len(settled.statuses) == 1
        assert await lane.claims.release(
            "lane", interrupted, cause="interrupted", error="stopped", suspicion=1
        )
        held = [batch.claims[n] for n in (0, 5)]
        assert await lane.claims.release_unanswered("lane", holding=held) == [batch.ids[6]]
        await lane.leases.report("lane", settled=3, figures={"settled": 3})
        await lane.leases.deregister("lane")
        await advance(queue, 60)
        assert (await lane.leases.reap()).retried == 2
        await lane.leases.reap()  # deletes the row of the lane
        await lane.leases.register("other", run="run")
        await lane.leases.renew("other", figures={"settled": 1})
        assert await lane.operator.request_stop("run") == await lane.operator.request_leave("run") == 1
        await lane.leases.deregister("other")
        assert (await lane.reader.lane_figures())["settled"] == 4
        # What runs and alerts show.
        assert (await lane.reader.outlook()).ready
        assert await lane.reader.remaining() == 5
        assert {line.type for line in await lines_of(database_of(lane), 64) if line.due_s <= 0} == {"t"}
        assert await lane.health.failures_since(START)
        assert [pause.name for pause in await lane.operator.pauses()] == ["not now"]
        assert await lane.reader.lanes() == []
        await lane.health.check_writes()
        assert (await lane.health.long_work()).suspects == 0
        async with lane.maintenance.exclusive(1) as alone:
            assert alone
        # And the watchdog's.
        await queue.operator.redrive(RedriveFilter(domain="none"), actor="me")
        await advance(queue, 3600)
        assert await lane.maintenance.prune("completed", older_than_s=60) == 1
        assert await lane.maintenance.prune("failed", older_than_s=60) == 1
        await lane.maintenance.prune_audit(older_than_s=60)
        assert await lane.maintenance.forget_files(older_than_s=60) == 1
        await lane.maintenance.forget_lanes(dead_for_s=1)
    assert await pool_of(queue).fetchval("SELECT count(*) FROM task_files") == 0


async def test_a_lane_does_nothing_else(database: str) -> None:
    assert not await refused(
        await new_login(database, LANE),
        *DDL,
        *(f"UPDATE tasks SET {column} = DEFAULT" for column in (*ASKED_FOR, "created_at", "drift_score")),
        "INSERT INTO tasks (type, params) VALUES ('t', '{}')",
        "INSERT INTO task_types (type) VALUES ('t')",
        "UPDATE task_types SET max_attempts = 1",
        "DELETE FROM task_types",
        "INSERT INTO pauses (kind, name) VALUES ('type', 't')",
        "DELETE FROM pauses",
        "DELETE FROM task_attempts",
        "UPDATE task_attempts SET error = ''",
        "DELETE FROM lane_totals",
        "SELECT details FROM task_audit",
        "UPDATE task_audit SET actor = 'x'",
        "SELECT digest FROM task_files",
    )


async def test_an_operator_operates(database: str, queue: Queue) -> None:
    async with queue_as(database, OPERATOR) as operator:
        waiting, running, failing, created = await operator.submit(
            [
                NewTask(type="t"),
                NewTask(type="r"),
                NewTask(type="f"),
                NewTask(type="t", run_immediately=False),
            ]
        )
        await operator.operator.set_policy(TypePolicy(type="f", max_attempts=1))
        await operator.operator.pause("type", "t", reason="why not")
        batch = await claim(queue)
        assert len(batch) == 2
        failed = batch.take([batch.types.index("f")])
        await queue.claims.settle("lane", failed, outcomes_of(failed, "failed", error="x"))
        assert (await operator.operator.cancel([waiting])).cancelled == [waiting]
        assert (await operator.operator.cancel([running])).requested == [running]
        assert await operator.operator.start([created]) == [created]
        assert (await operator.operator.redrivable(RedriveFilter())).count == 1
        assert (await operator.operator.redrive(RedriveFilter(), actor="me")).redriven == 1
        assert (await operator.get(str(failing))).history[-1].cause == "redriven"
        assert (await operator.operator.retry([waiting])).retried == [waiting]
        assert await operator.operator.resume("type", "t")
        assert (
            await operator.operator.request_stop("run") == await operator.operator.request_leave("run") == 0
        )
        # Everything there is to read.
        assert (await operator.reader.why(str(running))).status == "running"
        assert [page async for page in operator.reader.export(TaskFilter())]
        assert len(await operator.reader.page(TaskFilter())) == 4
        assert [policy.type for policy in await operator.operator.policies()] == ["f"]
        assert sum((await operator.reader.counts()).values()) == 4
        assert await operator.reader.depths()
        assert await operator.reader.states([running])
        await operator.reader.lane_figures()
        findings: list[Finding] = [
            *await verified_postgres.check(operator),
            *await verified_queue.check(operator, Thresholds()),
        ]
        assert [found for found in findings if found.status == "failed"] == []
        # And what may go.
        [done] = [each async for each in operator.operator.cancel_all(TaskFilter(type="t"))]
        assert len(done.cancelled) == 2
        assert await operator.maintenance.prune("cancelled", older_than_s=-60) == 2
        assert await operator.maintenance.prune_audit(older_than_s=-60) == 1
        await operator.maintenance.forget_files(older_than_s=0)


async def test_an_operator_changes_no_table(database: str) -> None:
    assert not await refused(
        await new_login(database, OPERATOR),
        *DDL,
        *(f"UPDATE tasks SET {column} = DEFAULT" for column in (*ASKED_FOR, "claim", "created_at")),
        "INSERT INTO tasks (type, attempts) VALUES ('t', 1)",
        "INSERT INTO lanes (id, host, pid, lease_until) VALUES ('l', 'h', 1, now())",
        "UPDATE lanes SET lease_until = 'epoch'",
        "DELETE FROM lanes",
        "DELETE FROM task_attempts",
        "DELETE FROM task_types",
        "UPDATE lane_totals SET value = 0",
    )


async def test_a_missing_privilege_is_one_line_that_names_the_role(database: str, queue: Queue) -> None:
    [task] = await queue.submit([NewTask(type="t")])
    async with queue_as(database, SUBMITTER) as submitter:
        user = await pool_of(submitter).fetchval("SELECT current_user")
        with pytest.raises(PrivilegeMissing) as found:
            await submitter.operator.cancel([task])
        assert found.value.what == f"Postgres does not let {user} do this: permission denied for table tasks"
        assert found.value.next_step.startswith(f'have an administrator GRANT {OPERATOR} TO "{user}"; ')
        # Several statements in one session, too.
        with pytest.raises(PrivilegeMissing, match=f'GRANT {OPERATOR} TO "{user}"') as found:
            await submitter.reader.why(str(task))
        assert str(found.value).count("Postgres does not let") == 1
        with pytest.raises(PrivilegeMissing, match=f'GRANT {LANE} TO "{user}"'):
            await submitter.leases.register("lane")
    async with queue_as(database, LANE) as lane:
        with pytest.raises(PrivilegeMissing, match=f"GRANT {SUBMITTER} or {OPERATOR} TO"):
            await lane.producer.load([NewTask(type="t")])
        # The pool has lost nothing by it.
        assert (await lane.reader.outlook()).ready


async def test_what_a_version_does_not_grant_is_taken_away(database: str) -> None:
    await execute(
        database,
        f"GRANT UPDATE ON tasks TO {SUBMITTER}; GRANT SELECT (params) ON tasks TO {SUBMITTER}; "
        f"GRANT UPDATE ON task_types TO {LANE}",
    )
    assert await migrate(database) == []
    assert not await refused(await new_login(database, SUBMITTER), "UPDATE tasks SET status = 'failed'")
    assert not await refused(await new_login(database, SUBMITTER), "SELECT params FROM tasks")
    assert not await refused(await new_login(database, LANE), "UPDATE task_types SET type = 't'")


# On a server that has none of the roles


@pytest.fixture
def bare() -> Iterator[EmbeddedPostgres]:
    """A server without the group roles."""
    with bare_server() as server:
        yield server


def test_who_may_make_no_roles_migrates_all_the_same(
    bare: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    admin, dsn = bare.dsn(user="postgres"), bare.dsn("apps", "app")
    monkeypatch.setenv("ORGANISM_DSN", dsn)

    async def submit(user: str) -> None:
        async with Queue(bare.dsn("apps", user)) as queue:
            await queue.submit([NewTask(type="t")])

    asyncio.run(execute(admin, "CREATE ROLE app LOGIN"))
    asyncio.run(execute(admin, "CREATE DATABASE apps OWNER app"))
    assert cli.run(["migrate"]) == 0
    done, line, *rest = capsys.readouterr().out.splitlines()
    assert (done, rest) == ("the tables in local socket/apps are up to date", [])
    events: list[Event] = []
    up = local._Start(Settings(home=tmp_path, dsn=SecretStr(dsn)), tmp_path, "drain", events.append)
    stack = plan(up.settings, tmp_path, dsn="", previous=None, kept=(), on_note=lambda *_: None)
    asyncio.run(up._database(stack, set()))
    assert [event.detail for event in events if event.phase == "note"] == [line], "`organism up` says it too"
    asyncio.run(submit("app"))
    # What the line says can be pasted.
    sql = line.partition("administrator: ")[2].rpartition(";")[0]
    asyncio.run(execute(admin, sql))
    assert cli.run(["migrate"]) == 0
    assert capsys.readouterr().out.splitlines() == [done]
    asyncio.run(execute(admin, f"CREATE ROLE producer LOGIN IN ROLE {SUBMITTER}"))
    asyncio.run(submit("producer"))


def test_databases_of_one_server_share_the_roles_and_each_can_be_closed(bare: EmbeddedPostgres) -> None:
    async def scenario() -> None:
        for name in ("one", "two"):
            await execute(bare.dsn(), f"CREATE DATABASE {name}")
        # Two: within a transaction the view of other sessions stays as it was.
        other, watching = [await asyncpg.connect(bare.dsn("one")) for _ in range(2)]
        async with other.transaction():
            # A migration of another database makes the roles at the same moment.
            await other.execute(f"CREATE ROLE {LANE}")
            migrating = asyncio.create_task(migrate(bare.dsn("two")))
            blocked = "SELECT pid FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))"
            await until(lambda: watching.fetchval(blocked, other.get_server_pid()))
        assert await migrating == []
        await other.close()
        await watching.close()
        assert await migrate(bare.dsn("one")) == []
        await execute(bare.dsn(user="postgres"), f"CREATE ROLE producer LOGIN IN ROLE {SUBMITTER}")
        await execute(bare.dsn(user="postgres"), "REVOKE CONNECT ON DATABASE two FROM PUBLIC")
        async with Queue(bare.dsn("one", "producer")) as queue:
            await queue.submit([NewTask(type="t")])
        with pytest.raises(
            QueueUnavailable, match=r"refuses this login: .* → have an administrator GRANT CONNECT"
        ):
            await Queue(bare.dsn("two", "producer")).__aenter__()

    asyncio.run(scenario())


def test_migrators_share_what_they_make(bare: EmbeddedPostgres) -> None:
    async def scenario() -> None:
        for role in ROLES:
            await execute(bare.dsn(user="postgres"), f"CREATE ROLE {role}")
        await execute(bare.dsn(user="postgres"), f"CREATE DATABASE work OWNER {MIGRATOR}")
        for user in ("deploy", "deploy_too"):
            await execute(bare.dsn(user="postgres"), f"CREATE ROLE {user} LOGIN IN ROLE {MIGRATOR}")
            await execute(bare.dsn(user="postgres"), f"ALTER ROLE {user} SET role = {MIGRATOR}")
        assert await migrate(bare.dsn("work", "deploy")) == []
        owners = (
            "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        )
        connection = await asyncpg.connect(bare.dsn("work"))
        assert [row[0] for row in await connection.fetch(owners)] == [MIGRATOR]
        await connection.close()
        assert await migrate(bare.dsn("work", "deploy_too")) == []
        # Anybody else is told whose the tables are.
        await execute(bare.dsn(user="postgres"), f"CREATE ROLE another LOGIN IN ROLE {OPERATOR}")
        await execute(bare.dsn("work", "deploy"), "UPDATE organism_migrations SET version_num = '0007'")
        with pytest.raises(
            PrivilegeMissing, match=f'let another migrate .*GRANT "{MIGRATOR}" TO "another"'
        ) as found:
            await migrate(bare.dsn("work", "another"))
        assert "\n" not in str(found.value)
        assert "<class" not in str(found.value)
        await execute(bare.dsn(user="postgres"), "CREATE DATABASE empty")
        with pytest.raises(
            PrivilegeMissing, match=f'permission denied for schema public .*GRANT "{MIGRATOR}" TO'
        ):
            await migrate(bare.dsn("empty", "another"))

    asyncio.run(scenario())


def test_tables_of_somebody_else_stay_theirs(bare: EmbeddedPostgres) -> None:
    async def scenario() -> None:
        await execute(bare.dsn(user="postgres"), "CREATE ROLE before LOGIN; CREATE ROLE deploy LOGIN")
        await execute(bare.dsn(user="postgres"), "CREATE DATABASE older OWNER before")
        await execute(
            bare.dsn("older", "before"),
            "CREATE TYPE taskstatus AS ENUM "
            "('created', 'queued', 'running', 'completed', 'failed', 'cancelled', 'retry'); "
            "CREATE TABLE tasks (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), type text NOT NULL, "
            "status taskstatus NOT NULL, params jsonb NOT NULL DEFAULT '{}', "
            "attempts int NOT NULL DEFAULT 0, "
            "run_after timestamptz, result jsonb, error text, created_at timestamptz NOT NULL DEFAULT now(), "
            "updated_at timestamptz NOT NULL DEFAULT now())",
        )
        await execute(bare.dsn("older", "postgres"), "GRANT ALL ON SCHEMA public TO deploy")
        with pytest.raises(
            PrivilegeMissing, match=r'permission denied for table tasks .*GRANT "before" TO "deploy"'
        ):
            await migrate(bare.dsn("older", "deploy"))
        await execute(bare.dsn(user="postgres"), "GRANT before TO deploy")
        assert await migrate(bare.dsn("older", "deploy")) == list(ROLES)
        # A migrator who may make roles finishes it.
        assert await migrate(bare.dsn("older", "postgres")) == []
        connection = await asyncpg.connect(bare.dsn("older"))
        owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'tasks'::regclass"
        assert await connection.fetchval(owner) == "before"
        await connection.close()
        await execute(
            bare.dsn(user="postgres"), f"CREATE ROLE worker LOGIN; GRANT {LANE}, {SUBMITTER} TO worker"
        )
        async with Queue(bare.dsn("older", "worker")) as queue:
            await queue.submit([NewTask(type="t")])
            assert len(await claim(queue)) == 1

    asyncio.run(scenario())
