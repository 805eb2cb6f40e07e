"""The gateway as an ASGI app, assembled from its parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.local_stack.stack_state import organism_url, prefect_ui_url, queue_dsn
from organism_flows.blocks.settings import Settings, load_settings
from organism_flows.blocks.tracing import tracer
from organism_flows.serve_apps.gateway.board.failures import FailureLists
from organism_flows.serve_apps.gateway.board.organism import OrganismWatch
from organism_flows.serve_apps.gateway.board.overview import Overviews
from organism_flows.serve_apps.gateway.board.throughput import ThroughputRecorder
from organism_flows.serve_apps.gateway.database import CONNECTIONS, Database
from organism_flows.serve_apps.gateway.dependencies import AppState
from organism_flows.serve_apps.gateway.http import problems
from organism_flows.serve_apps.gateway.http.answer_links import LinkSigner
from organism_flows.serve_apps.gateway.http.auth import AuthMiddleware
from organism_flows.serve_apps.gateway.http.concurrency_limit import ConcurrencyLimit
from organism_flows.serve_apps.gateway.http.openapi import DESCRIPTION, describe_problems
from organism_flows.serve_apps.gateway.http.rate_limit import RateLimit
from organism_flows.serve_apps.gateway.http.sessions import Sessions
from organism_flows.serve_apps.gateway.http.tokens import tokens_of
from organism_flows.serve_apps.gateway.metrics.metrics import QueueMetrics, Requests
from organism_flows.serve_apps.gateway.metrics.organ_metrics import Organs
from organism_flows.serve_apps.gateway.organism_link import Coordinator, OrganismByHttp, OrganismLink
from organism_flows.serve_apps.gateway.routes import (
    answers,
    board_files,
    export_stream,
    health,
    limits,
    overview,
    pauses,
    session,
    stream,
    task_actions,
    task_events,
    tasks,
    types,
)
from organism_flows.serve_apps.gateway.routes import coordinator as coordinator_routes
from organism_flows.serve_apps.gateway.stream_watcher import STREAM_SHARE, StreamWatcher
from organism_flows.serve_apps.gateway.task_watcher import TaskWatcher
from organism_flows.serve_apps.http_access import host_names


def create_app(settings: Settings | None = None, *, organism: OrganismLink | None = None) -> FastAPI:
    """Return the gateway as an ASGI app.

    Also the factory for ``uvicorn --factory organism_flows.serve_apps.gateway.app:create_app``. Where the
    settings switch tokens off, the app answers this machine only, whatever address it listens on.

    Args:
        settings: `None` means those of the environment.
        organism: Runs tasks. `None` means the organism's HTTP routes, at the URL that the settings or the
            state of the stack name.

    Raises:
        ConfigurationError: No database is named, no token is configured, or the tokens cannot be read.
    """
    settings = settings or load_settings()
    tracer("organism-gateway")
    registry = CollectorRegistry()
    direct = settings.direct_dsn
    exports = 2 * settings.gateway_exports
    database = Database(
        queue_dsn(settings).get_secret_value(),
        direct_dsn=direct.get_secret_value() if direct else None,
        # A page of an export may read the whole table. With these extra connections no other request waits
        # for one that an export holds.
        connections=CONNECTIONS + exports,
    )
    organism = organism or OrganismByHttp(partial(organism_url, settings), partial(own_headers, settings))
    coordinator = Coordinator(organism, settings.gateway_calls)
    tokens = tokens_of(settings)
    sessions = Sessions()
    throughput = ThroughputRecorder(database)
    overviews = Overviews(
        database, OrganismWatch(coordinator), throughput, partial(prefect_ui_url, settings.home)
    )
    waiting = TaskWatcher(lambda ids: database.queue.reader.states(ids))
    streams = StreamWatcher(lambda places: database.queue.reader.streams(places), share=STREAM_SHARE)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with database, waiting, streams, throughput, aclosing(overviews), aclosing(coordinator):
            yield

    app = FastAPI(
        title="Organism gateway",
        description=DESCRIPTION,
        version="1",
        lifespan=lifespan,
        # These pages would load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    metrics = QueueMetrics(registry, database, Organs(organism))
    app.state.parts = AppState(
        database,
        waiting,
        streams,
        metrics,
        registry,
        coordinator,
        # A quarter of the connections stays free for requests that are answered at once.
        ConcurrencyLimit(
            settings.gateway_waits,
            max(1, settings.gateway_connections * 3 // 4),
            "wait",
            "wait for many tasks in one request, POST /api/tasks/wait",
        ),
        ConcurrencyLimit(settings.gateway_exports, exports, "export", "wait until one of them has ended"),
        tokens,
        sessions,
        LinkSigner.of(settings),
        overviews,
        FailureLists(database),
    )
    for router in (
        export_stream.router,
        tasks.router,
        stream.router,
        task_actions.router,
        task_events.router,
        pauses.router,
        limits.router,
        coordinator_routes.router,
        health.router,
        session.router,
        overview.router,
        types.router,
        board_files.router,
        answers.router,
    ):
        # `include_router` would nest the routers: each request would match the nested router first, which
        # takes longer than matching its routes.
        app.router.routes.extend(router.routes)
    describe_problems(app)
    problems.install(app)
    app.add_middleware(
        AuthMiddleware,
        tokens=tokens,
        sessions=sessions,
        hosts=host_names(settings),
        rate=RateLimit(settings.gateway_rate) if settings.gateway_rate else None,
        body_limit=settings.gateway_body_limit,
        requests=Requests(registry),
    )
    return app
