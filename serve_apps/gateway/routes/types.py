"""The routes of task types: what is known of each, and its policy."""

from fastapi import APIRouter, Request

from organism_flows.blocks.client.board_messages import PolicyFigures, PolicyRequest, TypeFigures, TypeList
from organism_flows.blocks.queue import TypePolicy
from organism_flows.serve_apps.gateway.dependencies import TheParts, TheQueue, errors, record
from organism_flows.serve_apps.gateway.http.json_body import Route

TYPES_LIMIT = 1000

router = APIRouter(prefix="/api/types", tags=["steering"], route_class=Route)


@router.get("", summary="What is known of each type", responses=errors())
async def types(parts: TheParts, queue: TheQueue) -> TypeList:
    """Return every type that has tasks, a policy, a pause or an organ.

    Of types whose tasks have all completed more than an hour ago, only those with one of the others are
    known. Tasks and times are those of the overview.
    """
    overview = await parts.overviews.get()
    loads = {one.name: one for one in overview.queue.types} if overview.queue else {}
    pauses = {
        one.name: one for one in (overview.queue.pauses if overview.queue else []) if one.kind == "type"
    }
    policies = {one.type: PolicyFigures.of(one) for one in await queue.operator.policies()}
    organs = {name: organ for organ in overview.organism.organs for name in organ.task_types}
    known = overview.organism.status in ("healthy", "degraded")
    names = sorted({*loads, *pauses, *policies, *organs})[:TYPES_LIMIT]
    return TypeList(
        types=[
            TypeFigures(
                name=name,
                policy=policies.get(name),
                pause=pauses.get(name),
                organ=organs[name].id if name in organs else None,
                handler=organs[name].handler if name in organs else None,
                version=", ".join(organs[name].versions) or None if name in organs else None,
                served=(name in organs or overview.organism.any_type) if known else None,
                load=loads.get(name),
            )
            for name in names
        ]
    )


@router.post(
    "/policy", summary="Set the policy of a type", responses=errors("bad-request", "too-large", "not-json")
)
async def set_policy(body: PolicyRequest, queue: TheQueue, request: Request) -> PolicyFigures:
    """Set how tasks of a type are retried and timed out. It applies at once, also to waiting tasks."""
    policy = TypePolicy(**body.model_dump())
    await queue.operator.set_policy(policy)
    await record(request, "policy", policy.model_dump(exclude_none=True))
    return PolicyFigures.of(policy)
