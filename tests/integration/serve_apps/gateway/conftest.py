from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.gateway.running import Gateway, running


@pytest.fixture
async def gateway(database: str) -> AsyncIterator[Gateway]:
    """A running gateway on a fresh database, which `queue` is open on too."""
    async with running(database) as gateway:
        yield gateway
