"""Messages between the gateway and its clients about events of tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from organism_flows.blocks.client.messages import JSON
from organism_flows.blocks.queue.models.fields import EventName
from organism_flows.blocks.queue.models.operations import EventEffect, Status


class EventRequest(BaseModel):
    """An event for a task."""

    model_config = JSON

    payload: Any = Field(default=None, description="What the handler gets with it.")


class EventResult(BaseModel):
    """The effect of an event."""

    id: UUID
    event: str
    outcome: EventEffect = Field(
        description="resumed: the task waited for it, and continues. kept: until the task waits for it. "
        "duplicate: the task has had an event of this name, and this one changes nothing."
    )
    status: Status = Field(description="The status of the task now.")


class AnswerLinksRequest(BaseModel):
    """Answers that a person may give by a link."""

    model_config = JSON

    choices: list[EventName] = Field(
        default=["approve", "reject"], min_length=1, max_length=20, description="One link for each."
    )
    expires_in_s: float = Field(default=7 * 86400.0, gt=0, le=366 * 86400.0, description="Seconds.")


class AnswerLinks(BaseModel):
    """Links for a person, who needs no token. The first answer counts."""

    id: UUID
    event: str
    links: dict[str, str] = Field(description="URL by choice. Whoever has one can answer.")
    expires_at: datetime
