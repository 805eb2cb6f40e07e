"""What a start of the stack relies on, and in which order it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import docket
import httpx
import pytest
from prefect.server.api import background_workers

from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack import components, health, local
from organism_flows.deployments.stack.progress import silent

pytestmark = pytest.mark.anyio


TIMEOUT = 10


class Started(Exception):
    """Instead of a process."""


async def test_the_worker_starts_once_ray_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins at once what is due, which needs Ray. Its deployments are applied by then."""
    applied = False

    @contextmanager
    def deploying(*_: Any) -> Iterator[Callable[[], Awaitable[None]]]:
        async def apply() -> None:
            nonlocal applied
            applied = True

        yield apply

    def start_worker(*_: Any) -> NoReturn:
        raise Started

    monkeypatch.setattr(components, "deploying", deploying)
    monkeypatch.setattr(components, "start_worker", start_worker)
    start = local._Start(Settings(home=tmp_path, worker=True), tmp_path, "drain", silent)
    stack: Any = None
    prefect = asyncio.create_task(start._prefect(stack, {"prefect"}, None))
    start.database_answers.set()
    assert not (await asyncio.wait([prefect], timeout=0.05))[0]
    assert applied
    start.ray_answers.set()
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(Started):
            await prefect


async def test_a_worker_is_ready_when_it_has_reported_itself() -> None:
    """Its name is that of the worker before it, which Prefect calls online for a while."""
    reported = datetime(2026, 1, 1, tzinfo=UTC)
    found = [{"name": "me", "status": "ONLINE", "last_heartbeat_time": reported.isoformat()}]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=found))
    stack: Any = SimpleNamespace(
        prefect_api_url="http://prefect/api", prefect_secret_path=None, stack_id="me"
    )
    async with httpx.AsyncClient(transport=transport) as client:
        assert (await health.check_worker(client, stack)).ok
        assert (await health.check_worker(client, stack, since=reported)).ok
        assert not (await health.check_worker(client, stack, since=reported + timedelta(seconds=1))).ok


def test_prefects_upkeep_is_run_by_the_worker_that_we_slow_down() -> None:
    """Whoever upgrades Prefect finds out here: setting a name that it does not use would do nothing."""
    assert vars(background_workers)["Worker"] is docket.Worker
