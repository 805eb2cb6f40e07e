"""Messages of the routes that the board needs: sessions, the overview, failures, types, the audit."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

from pydantic import BaseModel, Field, model_validator

from organism_flows.blocks.client.messages import JSON
from organism_flows.blocks.queue.models.fields import Text
from organism_flows.blocks.queue.models.lanes import LaneState
from organism_flows.blocks.queue.models.operations import TypePolicy


class SignInRequest(BaseModel):
    """What a browser signs in with: a token, or a code that the holder of a token has asked for."""

    model_config = {**JSON, "json_schema_extra": {"oneOf": [{"required": ["token"]}, {"required": ["code"]}]}}

    token: Text | None = Field(default=None, min_length=1, max_length=1000)
    code: Text | None = Field(default=None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one(self) -> SignInRequest:
        if (self.token is None) == (self.code is None):
            raise ValueError("give either a token or a code")
        return self


class Session(BaseModel):
    """Who is signed in."""

    name: str = Field(description="Name of the token's holder, as the audit has it.")
    scope: Literal["read", "submit", "operate"]
    tokens: bool = Field(description="False: this gateway asks for no token, and nobody can sign out.")


class SignedOut(BaseModel):
    """The effect of signing out."""

    ended: bool = Field(description="False: there was no session.")


class SignInCode(BaseModel):
    """A code that signs a browser in, once."""

    code: str
    expires_in_s: float


class LatencyFigures(BaseModel):
    """How long the newest tasks that completed within the last hour took."""

    tasks: int = Field(description="Number of tasks that were read.")
    total_ms: tuple[float, float, float] = Field(
        description="Median, 95th and 99th percentile from creation to completion, in milliseconds."
    )
    handler_ms: tuple[float, float, float] | None = Field(description="The same in the handler.")


class LoadFigures(BaseModel):
    """Tasks of a type or domain."""

    name: str = Field(description="Empty for tasks without a domain.")
    ready: int = Field(description="Due now.")
    retrying: int = Field(description="Waiting for another attempt.")
    scheduled: int = Field(description="Not due yet.")
    waiting: int = Field(default=0, description="Waiting for an event.")
    more: bool = Field(description="True: more tasks wait than were counted.")
    running: int
    dead: int = Field(description="Dead letters among the newest 10,000.")
    dead_last_hour: int
    oldest_ready_s: float | None = Field(description="Seconds for which the oldest ready task has waited.")
    latency: LatencyFigures | None = None


class LaneFigures(BaseModel):
    """A lane."""

    id: str
    state: LaneState
    run: str | None = Field(description="Flow run of dispatch that it belongs to.")
    number: int | None
    host: str
    pid: int
    started_at: datetime
    heartbeat_s: float = Field(description="Seconds since its last heartbeat.")
    settled: int = Field(description="Attempts that it has settled.")
    per_s: float | None = Field(description="Attempts settled in a second, of late. null: not known yet.")
    held: int = Field(description="Tasks that it holds.")
    windows: dict[str, int] = Field(
        default={},
        description="Tasks that it may hold, by type: of the 20 that it holds most of.",
    )


class OrganFigures(BaseModel):
    """An organ, on the replicas that have answered within the last minute."""

    id: str
    kind: str | None
    handler: str | None
    versions: list[str] = Field(
        default=[], description="Versions of its handler; several while replicas are being replaced."
    )
    task_types: list[str]
    replicas: int
    in_flight: int
    waiting: int
    completed: int
    failed: int


class OrganismFigures(BaseModel):
    """The organism."""

    status: Literal["healthy", "degraded", "unhealthy", "unknown"] = Field(
        description="unknown: nobody says where it is."
    )
    reason: str | None = None
    next_step: str | None = None
    any_type: bool = Field(default=False, description="True: a default organ takes every type.")
    organs: list[OrganFigures] = []


class PauseFigures(BaseModel):
    """A pause, and who made it."""

    kind: Literal["type", "domain"]
    name: str
    reason: str | None
    paused_at: datetime
    by: str | None = Field(description="null: the audit does not say.")


class LastVerification(BaseModel):
    """What `verify` last found."""

    at: datetime
    status: Literal["ok", "degraded", "failed"]
    line: str = Field(description="What is not ok, or that all is ok.")
    run: str | None = Field(default=None, description="Flow run of Prefect that found it.")


class ThroughputPoint(BaseModel):
    """What the lanes did in one minute."""

    at: datetime = Field(description="End of the minute.")
    completed: float
    failed: float = Field(description="Dead letters.")
    retried: float


class Throughput(BaseModel):
    """What the lanes did in the last hour, as far back as this gateway has seen it."""

    since: datetime | None
    completed_per_s: float | None = Field(description="In the last minute. null: not known yet.")
    failed_per_s: float | None
    points: list[ThroughputPoint]


Level: TypeAlias = Literal["bad", "warn", "info"]


class Attention(BaseModel):
    """Something that needs a person, and what to do about it."""

    level: Level
    what: str
    next_step: str | None = None
    link: str | None = Field(default=None, description="Page of the board that shows it.")


class QueueFigures(BaseModel):
    """The queue."""

    types: list[LoadFigures]
    domains: list[LoadFigures]
    dead: int
    dead_more: bool = Field(description="True: there are more dead letters than were counted.")
    dead_last_hour: int
    latency: LatencyFigures | None
    lanes: list[LaneFigures]
    pauses: list[PauseFigures]
    verification: LastVerification | None


class Overview(BaseModel):
    """How everything stands, at most some seconds ago."""

    at: datetime
    version: str
    refresh_s: float = Field(description="Seconds after which it may have changed.")
    attention: list[Attention]
    queue: QueueFigures | None = Field(description="null: Postgres does not answer; `attention` says why.")
    throughput: Throughput
    organism: OrganismFigures
    prefect_url: str | None = Field(description="Base of Prefect's UI. null: not known.")


class FailureGroupFigures(BaseModel):
    """Dead letters of one type whose errors differ only in ids, paths and numbers."""

    type: str
    error: str = Field(description="First line of the error, with ⟨id⟩, ⟨path⟩ and ⟨n⟩ in it.")
    pattern: str = Field(description="`error` of a request that redrives them.")
    tasks: int
    first_at: datetime
    last_at: datetime
    trend: list[int] = Field(description="Dead letters in equal parts of the time from `since` to `until`.")
    sample: UUID | None = Field(description="The newest of them.")
    sample_error: str | None


class FailureList(BaseModel):
    """The newest dead letters, in groups."""

    read: int = Field(description="Dead letters that were read, the newest first.")
    more: bool = Field(description="True: there are older ones, which were not read.")
    since: datetime
    until: datetime
    groups: list[FailureGroupFigures]


class PolicyFigures(BaseModel):
    """Retries, timeouts and order of the tasks of a type, as they stand in the table."""

    type: str
    max_attempts: int | None = Field(description="null: 5.")
    timeout_s: float | None = Field(description="null: the organ's timeout.")
    backoff_base_s: float | None = Field(description="null: the queue's.")
    backoff_cap_s: float | None = Field(description="null: the queue's.")
    max_interruptions: int | None = Field(description="null: no limit.")
    max_snoozes: int | None = Field(description="null: 100.")
    cost: float | None = Field(description="Estimate of what a task spends; null: 1.")
    key_path: str | None = Field(
        default=None, description="Where the params of a task have its key, if its producer gives none."
    )
    cost_path: str | None = Field(
        default=None, description="Where the params of a task have its cost, if its producer gives none."
    )
    aging_s: float | None = Field(
        default=None, description="Seconds of waiting that count as one more priority; null: none do."
    )
    affinity_s: float | None = Field(
        default=None,
        description="Tasks of one key run together: how long those of others may wait. null: they do not.",
    )
    affinity_keys: int | None = Field(default=None, description="Keys that a lane claims at a time; null: 2.")
    earliest_deadline: bool = Field(
        default=False, description="Of tasks in one line, the one that expires first is claimed first."
    )
    timeout_by_deadline: bool = Field(
        default=False, description="An attempt is stopped when its task expires."
    )

    @classmethod
    def of(cls, policy: TypePolicy) -> PolicyFigures:
        """Return the values of ``policy``, which SQL may have set to what `TypePolicy` refuses."""
        return cls(**{name: getattr(policy, name) for name in cls.model_fields})


class TypeFigures(BaseModel):
    """A type of tasks."""

    name: str
    policy: PolicyFigures | None
    pause: PauseFigures | None
    organ: str | None = Field(
        description="Organ that serves it. null: none, or the organism does not answer."
    )
    handler: str | None
    version: str | None = Field(
        default=None,
        description="Version of the handler: what its organ says, or a digest of its code. null: not known.",
    )
    served: bool | None = Field(description="null: the organism does not answer.")
    load: LoadFigures | None


class TypeList(BaseModel):
    """Every type that has tasks, a policy, a pause or an organ."""

    types: list[TypeFigures]


class PolicyRequest(TypePolicy):
    """A policy to set. A value that is left out goes back to its default."""

    model_config = JSON


class AuditRow(BaseModel):
    """Who did what, when, and to how many tasks."""

    id: UUID
    at: datetime
    action: str
    actor: str
    details: Any
    tasks: int


class AuditPage(BaseModel):
    """A page of the audit."""

    entries: list[AuditRow]
    next: str | None = Field(description="Cursor of the next page. null: this is the last page.")
