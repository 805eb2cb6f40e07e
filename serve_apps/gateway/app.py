"""The gateway as an ASGI app: its parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from organism_flows.blocks.access_token import own_headers
from organism_flows.blocks.settings import Settings, load_settings
from organism_flows.blocks.stack_state import organism_url, queue_dsn
from organism_flows.serve_apps.gateway.database import CONNECTIONS, Database
from organism_flows.serve_apps.gateway.dependencies import AppState
from organism_flows.serve_apps.gateway.http import problems
from organism_flows.serve_apps.gateway.http.auth import AuthMiddleware
from organism_flows.serve_apps.gateway.http.concurrency_limit import ConcurrencyLimit
from organism_flows.serve_apps.gateway.http.openapi import DESCRIPTION, describe_problems
from organism_flows.serve_apps.gateway.http.rate_limit import RateLimit
from organism_flows.serve_apps.gateway.http.tokens import tokens_of
from organism_flows.serve_apps.gateway.metrics.metrics import QueueMetrics, Requests
from organism_flows.serve_apps.gateway.metrics.organ_metrics import Organs
from organism_flows.serve_apps.gateway.organism_link import Coordinator, OrganismByHttp, OrganismLink
from organism_flows.serve_apps.gateway.routes import coordinator as coordinator_routes
from organism_flows.serve_apps.gateway.routes import export_stream, health, pauses, task_actions, tasks
from organism_flows.serve_apps.gateway.task_watcher import TaskWatcher
from organism_flows.serve_apps.http_access import host_names


def create_app(settings: Settings | None = None, *, organism: OrganismLink | None = None) -> FastAPI:
    """The gateway, for ``uvicorn --factory organism_flows.serve_apps.gateway.app:create_app`` too.

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
    waiting = TaskWatcher(lambda ids: database.queue.states(ids))

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
    app.state.parts = AppState(
        database,
        waiting,
        metrics,
        registry,
        coordinator,
        # A quarter of the connections is left to those that ask for something at once.
        ConcurrencyLimit(
            settings.gateway_waits,
            max(1, settings.gateway_connections * 3 // 4),
            "wait",
            "wait for many tasks in one request, POST /api/tasks/wait",
        ),
        ConcurrencyLimit(settings.gateway_exports, exports, "export", "wait until one of them has ended"),
    )
    for router in (
        export_stream.router,
        tasks.router,
        task_actions.router,
        pauses.router,
        coordinator_routes.router,
        health.router,
    ):
        # Not included: a router within the router is asked anew for each request, and longer than its routes.
        app.router.routes.extend(router.routes)
    describe_problems(app)
    problems.install(app)
    app.add_middleware(
        AuthMiddleware,
        tokens=tokens_of(settings),
        hosts=host_names(settings),
        rate=RateLimit(settings.gateway_rate) if settings.gateway_rate else None,
        body_limit=settings.gateway_body_limit,
        requests=Requests(registry),
    )
    return app
