"""The embedded Postgres: who may enter, and what happens when its folder, disk or last run was no good."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from organism_flows.blocks.errors import StackError
from organism_flows.blocks.queue import NewTask, Queue, migrate
from organism_flows.deployments.stack.postgres import accounts, roles
from organism_flows.deployments.stack.postgres import server as postgres
from organism_flows.deployments.stack.postgres.server import EmbeddedPostgres
from organism_flows.deployments.stack.system import folders
from organism_flows.deployments.stack.system.processes import STACK_ID, Account, Child
from tests.support.sql import pool_of

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="organism-p-"))
    path.chmod(0o711)
    (path / "logs").mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Server:
    """A server on ``home`` that is stopped at the end."""

    def __init__(self, home: Path) -> None:
        self.postgres = EmbeddedPostgres(home, f"t{os.getpid()}-tests")
        self.child: Child | None = None

    def start(self) -> Child:
        async def run() -> Child:
            child = await self.postgres.start({**os.environ, STACK_ID: "postgres-test"})
            self.child = child
            await self.postgres.wait_ready(child)
            return child

        return asyncio.run(run())

    def sql(self, statement: str) -> object:
        async def run() -> object:
            connection = await asyncpg.connect(self.postgres.dsn())
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()

        return asyncio.run(run())

    def kill(self) -> None:
        """SIGKILL; its children notice and end."""
        if self.child is not None and self.child.exited() is None:
            children = psutil.Process(self.child.ref.pid).children()
            self.child.process.kill()
            self.child.process.wait()
            psutil.wait_procs(children, timeout=10)


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    server = Server(home)
    yield server
    server.kill()


def test_committed_data_survives_kill_and_a_pid_file_that_names_another_process(server: Server) -> None:
    server.start()
    server.sql("CREATE TABLE kept AS SELECT 1 AS n")
    server.kill()
    # The same user's process has that pid by now: Postgres alone would refuse to start.
    account = server.postgres.account
    other = subprocess.Popen(
        ["sleep", "60"],
        user=account.user if account else None,
        group=account.group if account else None,
        extra_groups=[] if account else None,
    )
    try:
        pid_file = server.postgres.data / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        server.start()
        assert server.sql("SELECT n FROM kept") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@AS_ROOT
def test_other_users_cannot_enter(server: Server) -> None:
    server.start()
    psql = server.postgres._binaries() / "psql"
    assert server.postgres.account is not None
    own = server.postgres.account.user  # It owns the server and the socket folder.
    for user in ("daemon", "nobody", own):
        for role in ("organism", "prefect", "postgres"):
            command = [str(psql), server.postgres.dsn("postgres", role), "-c", "SELECT 1"]
            shown = subprocess.run(
                command, user=user, group=user if user == "daemon" else None, capture_output=True
            )
            assert shown.returncode != 0, (user, role)
    assert server.sql("SELECT 1") == 1


@AS_ROOT
def test_its_user_is_its_own(server: Server) -> None:
    server.start()
    account = server.postgres.account
    assert account is not None
    with pytest.raises(KeyError):
        pwd.getpwuid(account.user)
    assert server.child is not None
    assert psutil.Process(server.child.ref.pid).uids().real == account.user
    other = accounts.service_account(server.postgres._stack_id, Path("/none"))
    assert other.user != account.user, "a process of somebody else's has it"


@AS_ROOT
def test_what_ran_as_nobody_is_taken_over(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(postgres, "service_account", lambda *_: accounts.unprivileged_account())
        server.start()
    server.sql("CREATE TABLE kept AS SELECT 1 AS n")
    server.kill()
    server.postgres = EmbeddedPostgres(server.postgres.home, server.postgres._stack_id)
    server.start()
    assert server.sql("SELECT n FROM kept") == 1
    nobody = accounts.unprivileged_account()
    assert [path for path in server.postgres.base.rglob("*") if path.lstat().st_uid == nobody.user] == []


def test_a_long_home_gets_a_short_socket_folder(home: Path) -> None:
    deep = home / ("d" * 80)
    deep.mkdir(mode=0o711)
    (deep / "logs").mkdir()
    server = Server(deep)
    try:
        server.start()
        assert server.sql("SELECT 1") == 1
        assert server.postgres.socket_folder().parent == folders.short_folder(f"t{os.getpid()}-tests")
        assert server.postgres.socket_folder().stat().st_mode & 0o077 == 0
    finally:
        server.kill()
        shutil.rmtree(server.postgres.socket_folder().parent, ignore_errors=True)


@AS_ROOT
def test_a_home_below_a_closed_folder_is_named(home: Path) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    inner = closed / "home"
    (inner / "logs").mkdir(parents=True)
    with pytest.raises(StackError) as caught:
        Server(inner).start()
    assert f"below {closed}, which is closed to other users" in caught.value.what
    assert "ORGANISM_HOME" in caught.value.next_step


@AS_ROOT
def test_binaries_nobody_can_reach_are_copied_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed_outside_home(path: Path, account: Account) -> Path | None:
        return None if path == server.postgres.home else path

    monkeypatch.setattr(postgres, "first_closed_folder", closed_outside_home)
    server.start()
    copy = server.postgres.home / f"postgres-{version(postgres.WHEEL)}"
    assert server.child is not None
    assert str(copy) in " ".join(psutil.Process(server.child.ref.pid).cmdline())
    made = copy.stat().st_mtime
    server.kill()
    server.start()
    assert copy.stat().st_mtime == made


def test_data_of_an_unknown_version_is_refused(server: Server) -> None:
    server.postgres.data.mkdir(parents=True)
    if server.postgres.account:
        for folder in (server.postgres.base, server.postgres.data):
            os.chown(folder, server.postgres.account.user, server.postgres.account.group)
    (server.postgres.data / "PG_VERSION").write_text("11\n")
    with pytest.raises(StackError, match="was made by PostgreSQL 11"):
        server.start()


def test_half_made_data_is_made_again(server: Server) -> None:
    folders.private_folder(server.postgres.base, account=server.postgres.account)
    half = server.postgres.base / "data.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    server.start()
    assert server.sql("SELECT 1") == 1


def test_a_corrupt_configuration_shows_the_servers_own_words(server: Server) -> None:
    server.start()
    server.kill()
    (server.postgres.data / "postgresql.conf").write_text("nonsense = = 1\n")
    with pytest.raises(StackError) as caught:
        server.start()
    assert "FATAL" in caught.value.what
    assert "postgresql.conf" in caught.value.what
    assert str(server.postgres.log) in caught.value.next_step


@AS_ROOT
def test_a_full_disk_is_named(home: Path) -> None:
    disk = home / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m,mode=711", "tmpfs", disk], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (disk / "logs").mkdir()
        with pytest.raises(StackError) as caught:
            Server(disk).start()
        assert caught.value.what.startswith(f"no space left on the disk of {disk / 'logs'}")
        assert "free some space" in caught.value.next_step
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_the_services_role_is_no_superuser(server: Server) -> None:
    server.start()
    assert server.sql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    for statement in ("COPY (SELECT 1) TO PROGRAM 'id'", "SELECT pg_read_file('/etc/passwd')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            server.sql(statement)


def test_prefects_role_enters_its_own_database_alone(server: Server) -> None:
    server.start()
    own = asyncio.run(ask(server.postgres.dsn("prefect", "prefect"), EXTENSION))
    assert own == "pg_trgm"
    for database in ("organism", "postgres", "template1"):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="rejects"):
            asyncio.run(ask(server.postgres.dsn(database, "prefect"), "SELECT 1"))


EXTENSION = "SELECT extname FROM pg_extension WHERE extname = 'pg_trgm'"
NOT_HANDED_OVER = """
SELECT array_agg(what) FROM (
    SELECT relname::text AS what, relowner AS owner, relnamespace AS schema FROM pg_class
    UNION ALL SELECT proname, proowner, pronamespace FROM pg_proc
    UNION ALL SELECT typname, typowner, typnamespace FROM pg_type
    UNION ALL SELECT nspname, nspowner, oid FROM pg_namespace WHERE nspname = 'mine'
    UNION ALL SELECT datname, datdba, 'public'::regnamespace FROM pg_database WHERE datname = 'other'
) owned
WHERE schema IN ('public'::regnamespace, 'mine'::regnamespace) AND owner <> 'organism'::regrole
"""
OWN = """
CREATE SCHEMA mine;
CREATE TABLE mine.rows (id serial PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, status taskstatus);
CREATE TABLE mine.parts (n int) PARTITION BY RANGE (n);
CREATE VIEW mine.view AS SELECT * FROM mine.rows;
CREATE MATERIALIZED VIEW mine.kept AS SELECT 1 AS one;
CREATE SEQUENCE mine.numbers;
CREATE DOMAIN mine.positive AS int CHECK (VALUE > 0);
CREATE TYPE mine.pair AS (a int, b int);
CREATE PROCEDURE mine.nothing() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE mine.total(int) (sfunc = int4pl, stype = int);
"""


async def ask(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def as_before_there_were_roles(dsn: roles.Dsn) -> None:
    """What was made on a new server when its superuser was called `organism`."""
    await ask(dsn("postgres", "organism"), "CREATE DATABASE organism")


@pytest.mark.parametrize(
    "killed_at",
    [
        "",
        pytest.param("CREATE ROLE organism_stand_in", marks=pytest.mark.soak),
        pytest.param("ALTER ROLE organism RENAME", marks=pytest.mark.soak),
    ],
)
def test_a_folder_of_before_keeps_its_tasks_and_loses_its_superuser(
    server: Server, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(postgres, "SUPERUSER", "organism")
        before.setattr(postgres, "prepare", as_before_there_were_roles)
        server.start()
    dsn = server.postgres.dsn()

    async def fill() -> None:
        await migrate(dsn)
        async with Queue(dsn) as queue:
            await queue.submit([NewTask(type="kept", params={"n": n}) for n in range(10)])
            await pool_of(queue).execute(OWN)
            await pool_of(queue).execute("CREATE DATABASE other")

    asyncio.run(fill())
    assert server.sql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is True
    server.kill()
    if killed_at:
        killed_after(killed_at, server, monkeypatch)
    server.start()
    assert server.sql("SELECT count(*) FROM tasks WHERE type = 'kept'") == 10
    assert server.sql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    assert server.sql(NOT_HANDED_OVER) is None
    assert server.sql("SELECT array_agg(rolname::text ORDER BY 1) FROM pg_roles WHERE rolsuper") == [
        "postgres"
    ]

    async def go_on() -> None:
        await migrate(dsn)
        async with Queue(dsn) as queue:
            await queue.submit([NewTask(type="kept")])

    asyncio.run(go_on())


class Killed(Exception):
    """Stands for the end of `organism up`."""


def killed_after(statement: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the server, and end right after it has done ``statement``."""
    execute = asyncpg.Connection.execute

    async def dying(self: asyncpg.Connection, query: str, *args: Any, **kwargs: Any) -> str:
        done = await execute(self, query, *args, **kwargs)
        if query.startswith(statement):
            raise Killed
        return done

    monkeypatch.setattr(asyncpg.Connection, "execute", dying)
    with pytest.raises(Killed):
        server.start()
    monkeypatch.undo()
    server.kill()
