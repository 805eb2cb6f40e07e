"""State of lanes in the queue, and what the queue asks of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

import orjson
from pydantic import BaseModel, ValidatorFunctionWrapHandler, field_validator


@dataclass(frozen=True, slots=True)
class ReapResult:
    """Tasks that a reap took back."""

    lanes: int
    retried: int
    failed: int
    """Tasks that have now lost as many leases as a task may lose."""
    runs: dict[str, int] = field(default_factory=dict)
    """Claims of the tasks taken back, by task id. Their handlers may still run."""

    def plus(self, other: ReapResult) -> ReapResult:
        """Return the sum of both results."""
        return ReapResult(
            self.lanes + other.lanes,
            self.retried + other.retried,
            self.failed + other.failed,
            self.runs | other.runs,
        )


@dataclass(frozen=True, slots=True)
class LaneRequest:
    """Requests to a lane, in the table of lanes."""

    stop: bool
    """Claim nothing more, give calls in flight a grace period, and hand the rest back."""
    leave: bool
    """Claim nothing more, and wait for the calls in flight to end."""


LaneState: TypeAlias = Literal["live", "leaving", "stopping", "silent"]


class LaneRow(BaseModel, defer_build=True):
    """A row of the table of lanes."""

    id: str
    run: str | None
    number: int | None
    host: str
    pid: int
    started_at: datetime
    renewed_at: datetime
    lease_until: datetime
    settled: int
    stop_requested: bool
    live: bool
    leave_requested: bool = False
    leaving_at: datetime | None = None
    relay: bool = False
    run_started_at: datetime | None = None
    windows: dict[str, int] = {}
    """Tasks that it may have in flight, by stream: those of the streams that hold most."""

    @field_validator("windows", mode="wrap")
    @classmethod
    def _readable(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> dict[str, int]:
        """Read what a lane wrote, or nothing: of another version, or changed by SQL of a user."""
        try:
            read: dict[str, int] = handler(orjson.loads(value) if isinstance(value, str) else value)
        except ValueError:
            return {}
        return read

    @property
    def claiming(self) -> bool:
        """Return True if the lane claims tasks."""
        return self.live and not (self.stop_requested or self.leave_requested or self.leaving_at)

    @property
    def leaves_since(self) -> datetime | None:
        """Return when the lane began to leave; `None` if it does not.

        A lane that was asked to leave, and has not confirmed it yet, began with its last heartbeat.
        """
        return self.leaving_at or (self.renewed_at if self.leave_requested else None)

    @property
    def state(self) -> LaneState:
        """Return the state of the lane in one word."""
        if not self.live:
            return "silent"
        if self.claiming:
            return "live"
        return "stopping" if self.stop_requested else "leaving"
