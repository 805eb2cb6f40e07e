"""The gateway as an ASGI app: its parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from blocks.errors import StackError
from blocks.settings import Settings, load_settings
from blocks.stack import queue_dsn, read_stack
from serve_apps.gateway import health, problems, steering, tasks
from serve_apps.gateway.database import Database
from serve_apps.gateway.description import DESCRIPTION, describe_problems
from serve_apps.gateway.guard import Guard
from serve_apps.gateway.metrics import QueueMetrics, Requests
from serve_apps.gateway.organs import Organs
from serve_apps.gateway.parts import Parts, Served
from serve_apps.gateway.tokens import read_tokens
from serve_apps.gateway.waiting import Waiting


def create_app(settings: Settings | None = None, *, served: Served | None = None) -> FastAPI:
    """The gateway, for ``uvicorn --factory serve_apps.gateway.app:create_app`` too.

    Without tokens it answers this machine only, wherever it is made to listen.

    Args:
        settings: None: from the environment.
        served: Tells the types the organism has organs for, for `/why`; None: not known.

    Raises:
        ConfigurationError: No database is named, or the tokens cannot be read.
    """
    settings = settings or load_settings()
    registry = CollectorRegistry()
    direct = settings.direct_dsn
    database = Database(
        queue_dsn(settings).get_secret_value(), direct_dsn=direct.get_secret_value() if direct else None
    )

    def organism_url() -> str | None:
        # Asked anew each time: the stack may be started after us, and elsewhere.
        try:
            stack = read_stack(settings.home)
        except StackError:
            return None
        return stack.organism_url if stack else None

    waiting = Waiting(lambda ids: database.queue.states(ids))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with database, waiting:
            yield

    app = FastAPI(
        title="Organism gateway",
        description=DESCRIPTION,
        version="1",
        lifespan=lifespan,
        # They would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.parts = Parts(
        database, waiting, QueueMetrics(registry, database, Organs(organism_url)), registry, served
    )
    for router in (steering.router, tasks.router, health.router):
        app.include_router(router)
    describe_problems(app)
    problems.install(app)
    app.add_middleware(
        Guard,
        tokens=read_tokens(settings.gateway_tokens),
        body_limit=settings.gateway_body_limit,
        requests=Requests(registry),
    )
    return app
