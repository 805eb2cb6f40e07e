"""The routes for whoever runs the gateway: is it alive, is it of use, and what does it measure."""

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
    """Answers as long as the process does anything, whatever Postgres does."""
    return GatewayHealth(status="ok")


@router.get("/readyz", summary="Whether the gateway is of use", responses={**FOREIGN, 503: errors()[503]})
async def readyz(parts: TheParts, request: Request) -> GatewayHealth:
    """Whether a task can be added; 503 while it cannot, with the reason for whoever has a token.

    Without the organism it is degraded and of use all the same: tasks are taken, and wait.
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
    """Tasks and their age, lanes and what they have counted, pauses, organs, requests of the gateway.

    While Postgres is away, `organism_postgres_up` is 0 and the queue's own figures are missing.
    """
    parts.metrics.waiters.set(parts.waiting.waiters)
    await parts.metrics.look()
    return Response(exposition(parts.registry), media_type=CONTENT_TYPE_LATEST)
