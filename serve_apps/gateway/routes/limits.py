"""The routes of limits: what may run at once, or begin within a period."""

from fastapi import APIRouter, Request

from organism_flows.blocks.client.limit_messages import (
    CloseRequest,
    LimitList,
    LimitRemoved,
    LimitRequest,
    OpenRequest,
    OpenResult,
    RemoveLimitRequest,
    WeightRequest,
)
from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue import Closing, Limit, Queue
from organism_flows.serve_apps.gateway.dependencies import TheQueue, errors, record
from organism_flows.serve_apps.gateway.http.json_body import Route
from organism_flows.serve_apps.gateway.http.problems import RequestRefused

WRITING = errors("bad-request", "too-large", "not-json")

router = APIRouter(prefix="/api/limits", tags=["steering"], route_class=Route)


@router.get("", summary="What is limited", responses=errors())
async def limits(queue: TheQueue) -> LimitList:
    """Return all limits, by name, with how much of each is used, what is closed, and the weights of keys."""
    return await _all(queue)


@router.post("", summary="Set a limit", responses=WRITING)
async def set_limit(body: LimitRequest, queue: TheQueue, request: Request) -> LimitList:
    """Set a limit, in place of one of its name. Lanes heed it within a second or two; what runs goes on.

    The answer lists all limits.
    """
    limit = Limit(**dict(body))
    await queue.operator.set_limit(limit)
    await record(request, "limit", limit.model_dump(exclude_defaults=True))
    return await _all(queue)


@router.post("/remove", summary="Remove a limit", responses=WRITING)
async def remove_limit(body: RemoveLimitRequest, queue: TheQueue, request: Request) -> LimitRemoved:
    """Remove a limit: its tasks are claimed as if it had never been."""
    removed = await queue.operator.remove_limit(body.name)
    if removed:
        await record(request, "limit removed", body.model_dump())
    return LimitRemoved(removed=removed)


@router.post(
    "/close",
    summary="Close a key or limit until a moment",
    responses=errors("bad-request", "not-found", "too-large", "not-json"),
)
async def close(body: CloseRequest, queue: TheQueue, request: Request) -> LimitList:
    """Claim no task of a key of a type, or of a limit, before a moment; what runs goes on.

    The answer lists all limits.
    """
    try:
        await queue.operator.close(Closing(**dict(body)))
    except ConfigurationError as error:
        raise RequestRefused("not-found", error.what, next_step="list limits by GET /api/limits") from None
    await record(request, "closed", body.model_dump(mode="json", exclude_defaults=True))
    return await _all(queue)


@router.post("/open", summary="Open a key or limit before its time", responses=WRITING)
async def open_again(body: OpenRequest, queue: TheQueue, request: Request) -> OpenResult:
    """Claim tasks of what was closed again."""
    opened = await queue.operator.open(body)
    if opened:
        await record(request, "opened", body.model_dump(exclude_defaults=True))
    return OpenResult(opened=opened)


@router.post("/weights", summary="Set the weight of a key", responses=WRITING)
async def set_weight(body: WeightRequest, queue: TheQueue, request: Request) -> LimitList:
    """Set how many tasks a key gets when others get one, where they share a type and priority.

    The answer lists all limits.
    """
    await queue.operator.set_weight(body.key, body.weight)
    await record(request, "weight", body.model_dump())
    return await _all(queue)


async def _all(queue: Queue) -> LimitList:
    return LimitList(
        limits=await queue.operator.limits(),
        closures=await queue.operator.closures(),
        weights=await queue.operator.weights(),
    )
