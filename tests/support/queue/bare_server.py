"""A Postgres of its own, for what belongs to a server and not to a database."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from organism_flows.deployments.stack.postgres.server import EmbeddedPostgres
from organism_flows.deployments.stack.system.processes import STACK_ID


@contextmanager
def bare_server() -> Iterator[EmbeddedPostgres]:
    """A server that was never migrated; its superuser is ``postgres``."""
    home = Path(tempfile.mkdtemp(prefix="organism-"))
    home.chmod(0o711)
    (home / "logs").mkdir()
    server = EmbeddedPostgres(home, "bare")
    started: list[Any] = []

    async def start() -> None:
        child = await server.start({**os.environ, STACK_ID: "bare"})
        started.append(child)
        await server.wait_ready(child)

    try:
        asyncio.run(start())
        yield server
    finally:
        for child in started:
            child.process.send_signal(signal.SIGQUIT)  # nothing of it is kept
            child.process.wait(20)
        shutil.rmtree(home, ignore_errors=True)
