"""The routes of limits: what may run at once, or begin within a period."""

from fastapi import APIRouter, Request

from organism_flows.blocks.client.messages import LimitList, LimitRemoved, LimitRequest, RemoveLimitRequest
from organism_flows.blocks.queue import Limit, Queue
from organism_flows.serve_apps.gateway.dependencies import TheQueue, errors, record
from organism_flows.serve_apps.gateway.http.json_body import Route

WRITING = errors("bad-request", "too-large", "not-json")

router = APIRouter(prefix="/api/limits", tags=["steering"], route_class=Route)


@router.get("", summary="What is limited", responses=errors())
async def limits(queue: TheQueue) -> LimitList:
    """Return all limits, by name, with how much of each is used, and what handlers have closed."""
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


async def _all(queue: Queue) -> LimitList:
    return LimitList(limits=await queue.operator.limits(), closures=await queue.operator.closures())
