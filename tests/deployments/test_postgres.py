"""The embedded Postgres: who may enter, and what happens when its folder, disk or last run was no good."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from blocks.errors import StackError
from deployments import folders, postgres
from deployments.postgres import EmbeddedPostgres
from deployments.processes import STACK_ID, Account, Child

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
    for user in ("daemon", "nobody"):  # The second owns the server and the socket folder.
        command = [psql, server.postgres.dsn(), "-c", "SELECT 1"]
        shown = subprocess.run(
            command, user=user, group=user if user == "daemon" else None, capture_output=True
        )
        assert shown.returncode != 0, user
    assert server.sql("SELECT 1") == 1


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
    assert f"below {closed}, which is closed to the user `nobody`" in caught.value.what
    assert "ORGANISM_HOME" in caught.value.next_step


@AS_ROOT
def test_binaries_nobody_can_reach_are_copied_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed_outside_home(path: Path, account: Account) -> Path | None:
        return None if path == server.postgres.home else path

    monkeypatch.setattr(postgres, "first_closed_folder", closed_outside_home)
    server.start()
    copy = server.postgres.home / f"postgres-{max(postgres.INSTALLS)}"
    assert str(copy) in " ".join(psutil.Process(server.child.ref.pid).cmdline())  # type: ignore[union-attr]
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
