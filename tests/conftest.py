"""Real parts for the tests, each started once a session: Postgres here, the whole stack in stack.py."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Before anything imports Prefect: nothing of the user's own servers may be touched by a test.
for name in (
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "RAY_ADDRESS",
    "ORGANISM_DSN",
    "ORGANISM_DIRECT_DSN",
    "PG_DSN",
    "SEEDCORE_PG_DSN",
):
    os.environ.pop(name, None)
os.environ["ORGANISM_HOME"] = tempfile.mkdtemp(prefix="organism-none-")
os.environ["DO_NOT_TRACK"] = "1"
# Before anything imports Ray: the stack is on 127.0.0.1, which Ray would else take for the outer address.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"  # read when Ray is imported, too
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
# As organism_flows.blocks.organism_client does; here some tests import Serve before it.
os.environ["RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"] = str(2**31 - 1)

import asyncpg
import pytest
from hypothesis import settings

from organism_flows.blocks.queue import Queue, migrate
from organism_flows.deployments.stack.postgres.server import SERVER_OPTIONS, EmbeddedPostgres
from organism_flows.deployments.stack.system.processes import STACK_ID, Child

pytest_plugins = ["tests.support.stack"]

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["ORGANISM_HOME"], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    # `make test` runs three processes on two cores, because tests wait more than they compute. One has the
    # tests that share the session's stack, one those that start stacks of their own. The tests of a file that
    # share something, such as a Prefect server, stay together: it would start once in each process. The
    # others go to whichever is free. pytest-xdist's own groups (3.8) do nothing with pytest 9.2: the ids of
    # tests lose the mark it gives them.
    from xdist.scheduler import LoadScopeScheduling

    @cache
    def group_of(file: str) -> str | None:
        text = (config.rootpath / file).read_text()
        if 'pytest.mark.stack("own")' in text:
            return "stacks of their own"
        if "pytest.mark.stack" in text:
            return "one stack"
        return file if 'scope="module"' in text or "own_prefect" in text else None

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist ships no types
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0]) or nodeid

    return ByGroup(config, log)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_modules_of_other_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget the modules that a test has written and imported: another's may have their names."""
    loaded = set(sys.modules)
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - loaded:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(written):
            del sys.modules[name]
    sys.path[:] = [folder for folder in sys.path if not folder.startswith(written)]


@pytest.fixture(scope="session")
def short_home() -> Iterator[Path]:
    """A folder for a stack: short enough for sockets, and open to the user Postgres runs as under root.

    It is in memory where the machine has room for that. A database is 350 files, and each of about a thousand
    tests makes one: on an ext4 that took 0.8 ms to create a file, this was a fifth of the whole run.
    """
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 8 << 30
    home = Path(tempfile.mkdtemp(prefix="organism-", dir=memory if roomy else None))
    home.chmod(0o711)
    yield home
    shutil.rmtree(home, ignore_errors=True)


class Databases:
    """Databases on one server, each a copy of a migrated template."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self._numbers = count(1)

    async def drop(self, url: str) -> None:
        """Drop a database, unless a process that the test has left is still connected to it."""
        connection = await asyncpg.connect(self._server.dsn("postgres"))
        try:
            # Not with FORCE: who is no superuser may not end an autovacuum, which an ordinary DROP does.
            with suppress(asyncpg.ObjectInUseError):
                await connection.execute(f'DROP DATABASE "{urlsplit(url).path[1:]}"')
        finally:
            await connection.close()

    async def create(self, *, migrated: bool = True) -> str:
        """URL of a new database."""
        name = f"test_{next(self._numbers)}"
        template = "organism" if migrated else "template0"
        connection = await asyncpg.connect(self._server.dsn("postgres"))
        try:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        finally:
            await connection.close()
        return self._server.dsn(name)


@pytest.fixture(scope="session")
def databases(short_home: Path) -> Iterator[Databases]:
    """A real Postgres for the session."""
    server = EmbeddedPostgres(short_home, "tests")
    (short_home / "logs").mkdir(exist_ok=True)

    async def start() -> None:
        # Nothing of it outlives the machine. Each of about a thousand tests makes a database.
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SERVER_OPTIONS, "fsync", "off")
            patch.setitem(SERVER_OPTIONS, "full_page_writes", "off")
            child = await server.start({**os.environ, STACK_ID: "tests"})
        started.append(child)
        await server.wait_ready(child)
        await migrate(server.dsn())

    started: list[Child] = []
    try:
        asyncio.run(start())
        yield Databases(server)
    finally:
        for child in started:
            child.process.send_signal(signal.SIGQUIT)  # nothing of it is kept
            child.process.wait(20)


@pytest.fixture
async def database(databases: Databases) -> AsyncIterator[str]:
    """URL of a fresh, migrated database."""
    url = await databases.create()
    yield url
    await databases.drop(url)


@pytest.fixture
async def queue(database: str) -> AsyncIterator[Queue]:
    """An open queue on a fresh database."""
    async with Queue(database, lease_s=15) as queue:
        yield queue
