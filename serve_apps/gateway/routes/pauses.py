"""The routes that pause and resume the tasks of a type or domain."""

from fastapi import APIRouter, Request

from organism_flows.blocks.client.messages import PauseList, PauseRequest, ResumeRequest, ResumeResult
from organism_flows.serve_apps.gateway.dependencies import TheQueue, errors, record
from organism_flows.serve_apps.gateway.http.json_body import Route

WRITING = errors("bad-request", "too-large", "not-json")

router = APIRouter(prefix="/api/pauses", tags=["steering"], route_class=Route)


@router.get("", summary="What is paused", responses=errors())
async def pauses(queue: TheQueue) -> PauseList:
    """Return the types and domains that are paused: their tasks are not claimed."""
    return PauseList(pauses=await queue.operator.pauses())


@router.post("", summary="Pause a type or domain", responses=WRITING)
async def pause(body: PauseRequest, queue: TheQueue, request: Request) -> PauseList:
    """Stop claiming tasks of a type or domain. Tasks that run go on.

    The answer lists everything that is paused.
    """
    await queue.operator.pause(body.kind, body.name, reason=body.reason)
    await record(request, "pause", body.model_dump(exclude_none=True))
    return PauseList(pauses=await queue.operator.pauses())


@router.post("/resume", summary="Resume a type or domain", responses=WRITING)
async def resume(body: ResumeRequest, queue: TheQueue, request: Request) -> ResumeResult:
    """Claim tasks of a type or domain again."""
    resumed = await queue.operator.resume(body.kind, body.name)
    if resumed:
        await record(request, "resume", body.model_dump())
    return ResumeResult(resumed=resumed)
