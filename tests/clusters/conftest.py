"""A cluster with an organism on it, one for each module, and its queue."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import AsyncIterator, Iterator

import pytest

from organism_flows.blocks.queue import Queue
from tests.clusters.cluster import Cluster, cluster
from tests.support.history import install_history
from tests.support.sql import pool_of

HANDLER = """
import asyncio, os, socket

async def where(task):
    await asyncio.sleep(task["params"]["seconds"])
    return {"host": socket.gethostname(), "pid": os.getpid()}

async def units(params, context):
    for unit in range(context.restored or 0, params["units"]):
        with open(params["file"], "a") as lines:
            lines.write(f"{context.task_id} {unit} {socket.gethostname()}\\n")
        await asyncio.sleep(params["seconds"])
        await context.checkpoint(unit + 1)
"""
ORGANISM = """
working_dir: {uri}
organs:
  - {{id: elsewhere, task_types: [where], handler: "elsewhere:where", concurrency: 8, timeout_s: 60}}
  - {{id: units, task_types: [units], handler: "elsewhere:units", concurrency: 8, timeout_s: 300}}
"""
CONFIG = "/tmp/mine/organism.yaml"
"""On the machine of the flows; every machine has a /tmp of its own."""


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    """The cluster, with the organism on it and handlers that only came there by a URI."""
    with cluster() as made:
        made.organism("migrate")
        made.organism("deploy")
        made.start_worker(ORGANISM_CONFIG=CONFIG)
        share_handlers(made)
        run = made.flows.run(
            *(sys.executable, "-m", "prefect", "deployment", "run", "bootstrap/organism"),
            *("--param", "replicas=4", "--watch", "--watch-interval", "1"),
            env=made.env,
        )
        assert run[0] == 0, run[1][-2000:] + made.log("worker").read_text()[-3000:]
        yield made


@pytest.fixture
async def queue(made: Cluster) -> AsyncIterator[Queue]:
    async with Queue(made.dsn("organism")) as queue:
        await pool_of(queue).execute("TRUNCATE tasks, lanes CASCADE")
        await install_history(queue)
        yield queue


def share_handlers(made: Cluster) -> None:
    """A zip of the handlers on a disk that all share, and the configuration that names it where flows run."""
    archive = made.folder / "handlers-1.zip"
    with zipfile.ZipFile(archive, "w") as file:
        # In a folder, as GitHub and `git archive` make them: Ray takes the only folder for the root.
        file.writestr("handlers/elsewhere.py", HANDLER)
    made.flows.write(CONFIG, ORGANISM.format(uri=archive.as_uri()))
