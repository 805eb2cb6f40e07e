"""What the tests of flows share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from prefect.events.worker import EventsWorker
from prefect.testing.utilities import prefect_test_harness

from organism_flows.blocks.queue import Queue


@pytest.fixture
def sender() -> Iterator[None]:
    """Events of this test go to the server of this test."""
    _end_senders()
    yield
    _end_senders()


@pytest.fixture(scope="module")
def own_prefect() -> Iterator[None]:
    """A Prefect server for one module."""
    _end_senders()
    with prefect_test_harness(server_startup_timeout=120):
        yield
        _end_senders()


@pytest.fixture
async def queue(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Queue]:
    """An open queue on the database that the block called ``default`` finds."""
    monkeypatch.setenv("ORGANISM_DSN", database)
    async with Queue(database) as queue:
        yield queue


def _end_senders() -> None:
    # What sends events stays with the server it has known first (Prefect 3.8.8).
    EventsWorker.drain_all(timeout=10, at_exit=False)
