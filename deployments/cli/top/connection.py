"""The client that `organism top` works through, over HTTP or on the table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from organism_flows.blocks.client.async_client import Client
from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.local_stack.access_token import gateway_address
from organism_flows.blocks.settings import Settings

IN_PROCESS_URL = "http://127.0.0.1"


@asynccontextmanager
async def connect(settings: Settings, *, table: bool) -> AsyncIterator[tuple[Client, str]]:
    """Yield a client, and words for what it is connected to.

    Args:
        settings: Name the gateway, its token and the database.
        table: Work on the table even if a gateway is known.

    Raises:
        ConfigurationError: Neither a gateway nor a database is known.
        StackError: The state file of the stack cannot be read.
    """
    if not table:
        try:
            address = gateway_address(settings)
        except ConfigurationError:
            pass
        else:
            async with Client(address.url, token=address.token) as client:
                yield client, address.url
            return
    # The gateway itself, in this process: both ways show and do the same.
    from organism_flows.serve_apps.gateway.app import create_app

    app = create_app(settings.model_copy(update={"gateway_open": True, "gateway_tokens": None}))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with Client(IN_PROCESS_URL, transport=transport) as client:
            yield client, "the table"
