"""Whatever the published description allows, and whatever it forbids: schemathesis, with every check it has.

It takes the API as it is, so a route that is added is tried as well.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import hypothesis
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig

from organism_flows.blocks.queue import Queue, TaskFilter
from organism_flows.blocks.settings import Settings
from organism_flows.serve_apps.gateway.app import create_app
from tests.conftest import Databases
from tests.support.gateway.running import running, token_file
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.queue.hostile_rows import STATUSES, TYPES, WORST, insert, take_any_row
from tests.support.scripted_organism import ScriptedOrganism

Test = TypeVar("Test", bound=Callable[..., None])
TOKEN = "may-do-everything"
TIMEOUT_S = 20
EXAMPLES = 5
MANY_EXAMPLES = 60
settings = hypothesis.settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)


@pytest.fixture(scope="module")
def url(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway that asks for tokens, on a queue of hostile rows whose tasks all end before long."""
    dsn = asyncio.run(hostile(databases))
    tokens = token_file(tmp_path_factory.mktemp("tokens"), operate=TOKEN)
    found: list[str] = []
    started, done = threading.Event(), threading.Event()

    async def serve(tokens: Path) -> None:
        async with (
            running(dsn, organism=ScriptedOrganism(), gateway_tokens=tokens) as gateway,
            Queue(dsn) as queue,
        ):
            found.append(gateway.url)
            started.set()
            while not done.is_set():
                await end_tasks(queue)
                await asyncio.to_thread(done.wait, 0.1)

    thread = threading.Thread(target=lambda: asyncio.run(serve(tokens)), daemon=True)
    thread.start()
    assert started.wait(60)
    yield found[0]
    done.set()
    thread.join(30)


async def hostile(databases: Databases) -> str:
    """A database with the worst rows that its table can hold."""
    dsn = await databases.create()
    connection = await asyncpg.connect(dsn)
    await take_any_row(connection)
    for status in STATUSES:
        for type in TYPES:
            await insert(connection, {**WORST, "status": status, "type": type})
    await connection.close()
    return dsn


async def end_tasks(queue: Queue) -> None:
    """One fails, the others are cancelled: else an event stream of one would have no end."""
    await queue.leases.reap()
    batch = await claim(queue, limit=1)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error="broken"))
    async for _ in queue.operator.cancel_all(TaskFilter(status=["created", "queued", "retry"])):
        pass


def each_route(examples: int) -> Callable[[Test], Test]:
    """Run a test with ``examples`` cases of every route of the published description."""
    config = SchemathesisConfig.from_dict(
        {
            "headers": {"Authorization": f"Bearer {TOKEN}"},
            "request-timeout": TIMEOUT_S,
            # No NUL characters: a schema cannot say of params that there is none anywhere in them. That they
            # are refused is in `test_errors`.
            "generation": {"max-examples": examples, "deterministic": True, "allow-x00": False},
        }
    )
    app = create_app(Settings(dsn="postgresql://nowhere", gateway_open=True))
    described = schemathesis.openapi.from_dict(json.loads(json.dumps(app.openapi())), config=config)
    parametrized: Callable[[Test], Test] = described.parametrize()
    return parametrized


@each_route(EXAMPLES)
@settings
def test_every_route_keeps_to_its_description(case: schemathesis.Case[Any], url: str) -> None:
    case.call_and_validate(base_url=url)


@pytest.mark.soak
@each_route(MANY_EXAMPLES)
@settings
def test_every_route_keeps_to_its_description_for_long(case: schemathesis.Case[Any], url: str) -> None:
    case.call_and_validate(base_url=url)
