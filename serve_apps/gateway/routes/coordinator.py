"""The routes that call the organism itself: its health, and a task that runs at once, past the queue."""

from typing import Any

from fastapi import APIRouter, Response

from organism_flows.blocks.client.messages import DirectOutcome, DirectTask, OrganismHealth
from organism_flows.blocks.errors import OrganismUnavailable, ReplicaLost
from organism_flows.serve_apps.gateway.dependencies import TheParts, errors
from organism_flows.serve_apps.gateway.http.json_body import Route
from organism_flows.serve_apps.gateway.http.problems import RequestRefused
from organism_flows.serve_apps.gateway.organism_link import TooManyCalls

UNHEALTHY: dict[int | str, dict[str, Any]] = {
    **{status: each for status, each in errors().items() if status in (401, 403)},
    503: {"model": OrganismHealth, "description": "It is unhealthy, or does not answer"},
}

router = APIRouter(prefix="/coordinator", tags=["coordinator"], route_class=Route)


@router.get("/health", summary="How the organism is", responses=UNHEALTHY)
async def health(parts: TheParts, response: Response) -> OrganismHealth:
    """Return the organism's health, as the organism reports it.

    `degraded` means that it serves, but not with its latest configuration.
    """
    try:
        found = await parts.coordinator.health()
    except OrganismUnavailable as error:
        response.status_code = 503
        return OrganismHealth(status="unhealthy", reason=error.what, organism=None)
    if found.status == "unhealthy":
        response.status_code = 503
    return OrganismHealth(status=found.status, reason=found.reason, organism=found.plain())


@router.post(
    "/submit",
    summary="Run a task at once, past the queue",
    responses=errors("bad-request", "too-large", "not-json", "busy", "no-organism", "deadline"),
)
async def submit(task: DirectTask, parts: TheParts) -> DirectOutcome:
    """Run a task on the organism, and answer with its outcome, also when the task fails.

    The task is not stored. If a process dies meanwhile, the task is lost, and nothing retries it. When the
    deadline is over, its handler is asked to stop.
    """
    try:
        return DirectOutcome.model_validate(await parts.coordinator.submit(task))
    except TooManyCalls:
        raise RequestRefused(
            "busy",
            "too many calls are under way",
            next_step="try again, or submit it to the queue",
        ) from None
    except (OrganismUnavailable, ReplicaLost) as error:
        raise RequestRefused("no-organism", error.what, next_step=error.next_step) from None
    except TimeoutError:
        raise RequestRefused(
            "deadline",
            f"no outcome within {task.deadline_s:g} s; the handler is asked to stop",
            next_step="give it a longer deadline_s, or submit it to the queue",
        ) from None
