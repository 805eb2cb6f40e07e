"""A real PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from organism_flows.deployments.stack.postgres.accounts import unprivileged_account
from tests.support.proxy import proxied
from tests.support.stack import until

CONFIG = """
[databases]
* = host=127.0.0.1 port={server_port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
; Fewer than the clients have, so that they really take turns.
default_pool_size = {server_connections}
server_tls_sslmode = disable
logfile = {folder}/pgbouncer.log
"""


def find_pgbouncer() -> str:
    """The program, or skip: no wheel carries it."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("pgbouncer", path=path)
    if found is None:
        pytest.skip(
            "NOT TESTED: pgbouncer is not installed (apt-get install pgbouncer, brew install pgbouncer)"
        )
    return found


@asynccontextmanager
async def bounced(dsn: str, *, server_connections: int = 3) -> AsyncIterator[str]:
    """URL of the database ``dsn`` names through a PgBouncer of its own."""
    program = find_pgbouncer()
    url = urlsplit(dsn)
    account = unprivileged_account() if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="organism-bouncer-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Through the proxy, because the server lets in nobody but ourselves, by Unix socket.
    async with proxied(dsn) as proxy:
        config = folder / "pgbouncer.ini"
        config.write_text(
            CONFIG.format(
                server_port=proxy.port,
                user=url.username,
                port=port,
                folder=folder,
                server_connections=server_connections,
            )
        )
        if account is not None:
            for path in (folder, config):
                os.chown(path, account.user, account.group)
        process = await asyncio.create_subprocess_exec(
            program,
            "-q",
            str(config),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=account.user if account else None,
            group=account.group if account else None,
        )
        bounced_dsn = f"postgresql://{url.username}@127.0.0.1:{port}{url.path}?sslmode=disable"

        async def answers() -> bool:
            assert process.returncode is None, (folder / "pgbouncer.log").read_text()
            try:
                await (await asyncpg.connect(bounced_dsn, statement_cache_size=0)).close()
            except OSError:
                return False
            return True

        try:
            await until(answers)
            yield bounced_dsn
        finally:
            process.kill()
            await process.wait()
            shutil.rmtree(folder, ignore_errors=True)
