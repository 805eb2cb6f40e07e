"""The routes for operating the gateway: liveness, readiness, metrics."""

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from organism_flows.blocks.client.messages import GatewayHealth
from organism_flows.blocks.errors import OrganismUnavailable
from organism_flows.serve_apps.gateway.dependencies import TheParts, errors
from organism_flows.serve_apps.gateway.http.problems import TITLES, RequestRefused
from organism_flows.serve_apps.gateway.metrics.metrics import exposition

router = APIRouter(tags=["operation"])


FOREIGN: dict[int | str, dict[str, Any]] = {403: errors()[403]}


@router.get("/healthz", summary="Whether the gateway lives", responses=FOREIGN)
async def healthz() -> GatewayHealth:
    """Answer as long as the process works, whatever the state of Postgres."""
    return GatewayHealth(status="ok")


@router.get("/readyz", summary="Whether the gateway is of use", responses={**FOREIGN, 503: errors()[503]})
async def readyz(parts: TheParts, request: Request) -> GatewayHealth:
    """Answer 200 if a task can be added, and 503 while it cannot.

    The reason is only for clients with a token, where tokens are needed.

    Without the organism, the gateway is `degraded` and still ready: it accepts tasks, and they wait.
    """
    # Reasons name hosts, databases and users.
    known = request.state.who is not None
    try:
        await parts.database.check()
    except Exception:
        if known:
            raise
        raise RequestRefused(
            "unavailable", "tasks cannot be added now", next_step="try again later"
        ) from None
    try:
        await parts.coordinator.health()
    except OrganismUnavailable as error:
        return GatewayHealth(
            status="degraded", reason=error.what if known else "the organism does not answer"
        )
    return GatewayHealth(status="ok")


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **{status: errors()[status] for status in (TITLES["unauthenticated"][0], TITLES["forbidden"][0])},
    },
)
async def metrics(parts: TheParts) -> Response:
    """Return metrics of tasks and their age, lanes and their counters, pauses, organs, and requests.

    While Postgres is away, `organism_postgres_up` is 0 and the metrics of the queue are missing.
    """
    parts.metrics.waiters.set(parts.waiting.waiters)
    await parts.metrics.refresh()
    return Response(exposition(parts.registry), media_type=CONTENT_TYPE_LATEST)
