"""The gateway as an ASGI app: its parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from blocks.access import own_headers
from blocks.settings import Settings, load_settings
from blocks.stack import organism_url, queue_dsn
from serve_apps.gateway import coordinator as coordinator_routes
from serve_apps.gateway import exporting, health, pausing, problems, steering, tasks
from serve_apps.gateway.database import CONNECTIONS, Database
from serve_apps.gateway.description import DESCRIPTION, describe_problems
from serve_apps.gateway.guard import Guard
from serve_apps.gateway.metrics import QueueMetrics, Requests
from serve_apps.gateway.organism import Coordinator, Organism, OrganismByHttp
from serve_apps.gateway.organs import Organs
from serve_apps.gateway.parts import Parts
from serve_apps.gateway.rate import Rate
from serve_apps.gateway.slots import Slots
from serve_apps.gateway.tokens import tokens_of
from serve_apps.gateway.waiting import Waiting
from serve_apps.http_access import host_names


def create_app(settings: Settings | None = None, *, organism: Organism | None = None) -> FastAPI:
    """The gateway, for ``uvicorn --factory serve_apps.gateway.app:create_app`` too.

    Open, without tokens, it answers this machine only, wherever it is made to listen.

    Args:
        settings: None: from the environment.
        organism: Who runs tasks; None: the organism's HTTP routes, where the settings or the stack say them.

    Raises:
        ConfigurationError: No database is named, there is no token to ask for, or the tokens cannot be read.
    """
    settings = settings or load_settings()
    registry = CollectorRegistry()
    direct = settings.direct_dsn
    exports = 2 * settings.gateway_exports
    database = Database(
        queue_dsn(settings).get_secret_value(),
        direct_dsn=direct.get_secret_value() if direct else None,
        # A page of an export may read the whole table; none of the others waits for its connection.
        connections=CONNECTIONS + exports,
    )
    organism = organism or OrganismByHttp(partial(organism_url, settings), partial(own_headers, settings))
    coordinator = Coordinator(organism, settings.gateway_calls)
    waiting = Waiting(lambda ids: database.queue.states(ids))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with database, waiting, aclosing(coordinator):
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
    metrics = QueueMetrics(registry, database, Organs(organism))
    app.state.parts = Parts(
        database,
        waiting,
        metrics,
        registry,
        coordinator,
        # A quarter of the connections is left to those that ask for something at once.
        Slots(
            settings.gateway_waits,
            max(1, settings.gateway_connections * 3 // 4),
            "wait",
            "wait for many tasks in one request, POST /api/tasks/wait",
        ),
        Slots(settings.gateway_exports, exports, "export", "wait until one of them has ended"),
    )
    for router in (
        exporting.router,
        tasks.router,
        steering.router,
        pausing.router,
        coordinator_routes.router,
        health.router,
    ):
        # Not included: a router within the router is asked anew for each request, and longer than its routes.
        app.router.routes.extend(router.routes)
    describe_problems(app)
    problems.install(app)
    app.add_middleware(
        Guard,
        tokens=tokens_of(settings),
        hosts=host_names(settings),
        rate=Rate(settings.gateway_rate) if settings.gateway_rate else None,
        body_limit=settings.gateway_body_limit,
        requests=Requests(registry),
    )
    return app
