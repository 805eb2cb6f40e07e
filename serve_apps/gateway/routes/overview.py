"""The routes that show how everything stands: the overview, failures in groups, and the audit."""

from dataclasses import asdict
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from organism_flows.blocks.client.board_messages import (
    AuditPage,
    AuditRow,
    FailureGroupFigures,
    FailureList,
    Overview,
)
from organism_flows.blocks.client.messages import PAGE_LIMIT
from organism_flows.blocks.queue.models.fields import Moment, Text
from organism_flows.serve_apps.gateway.dependencies import TheParts, TheQueue, errors
from organism_flows.serve_apps.gateway.http.json_body import Route
from organism_flows.serve_apps.gateway.routes.tasks import Cursor, cursor_of, place_of

router = APIRouter(prefix="/api", tags=["overview"], route_class=Route)


@router.get("/overview", summary="How everything stands", response_model=Overview, responses=errors())
async def overview(parts: TheParts) -> Response:
    """Return how the queue, the lanes and the organism stand, and what needs a person.

    All readers share one look, at most `refresh_s` old. Counts are bounded: where `more` is true, there are
    more. Answers also while Postgres or the organism are away, and says so.
    """
    return Response(await parts.overviews.body(), media_type="application/json")


class FailuresQuery(BaseModel):
    """Which dead letters to group."""

    model_config = ConfigDict(extra="forbid")

    type: Text | None = Field(default=None, max_length=200)
    domain: Text | None = Field(default=None, max_length=200)
    since: Moment | None = Field(default=None, description="Finished then or later.")


@router.get("/failures", summary="Dead letters by error", responses=errors())
async def failures(query: Annotated[FailuresQuery, Query()], parts: TheParts) -> FailureList:
    """Return the newest dead letters, at most 10,000, grouped by type and by error.

    Errors are the same if their first lines differ only in ids, paths and numbers. The answer is at most 5 s
    old.
    """
    found = await parts.failures.get(type=query.type, domain=query.domain, since=query.since)
    groups = [FailureGroupFigures.model_validate(asdict(group)) for group in found.groups]
    return FailureList(read=found.read, more=found.more, since=found.since, until=found.until, groups=groups)


class AuditQuery(BaseModel):
    """Which rows of the audit to list, and which page of them."""

    model_config = ConfigDict(extra="forbid")

    action: Text | None = Field(default=None, max_length=200)
    limit: int = Field(default=50, ge=1, le=PAGE_LIMIT, description="Most rows of a page.")
    cursor: Cursor | None = Field(default=None, description="`next` of the page before.")


@router.get("/audit", summary="Who did what", responses=errors())
async def audit(query: Annotated[AuditQuery, Query()], queue: TheQueue) -> AuditPage:
    """Return who did what, when, and to how many tasks, the newest first.

    Redrives and verifications are recorded, whoever makes them. Cancels, retries, pauses and policies are
    recorded if they come over HTTP.
    """
    before: UUID | None = place_of(query.cursor) if query.cursor is not None else None
    entries = await queue.board.audit(action=query.action, before=before, limit=query.limit + 1)
    more = len(entries) > query.limit
    entries = entries[: query.limit]
    rows = [AuditRow.model_validate(asdict(entry)) for entry in entries]
    return AuditPage(entries=rows, next=cursor_of(rows[-1].id) if more else None)
