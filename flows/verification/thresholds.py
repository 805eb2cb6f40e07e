"""Thresholds beyond which `verify` reports a part as degraded or failed."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Thresholds(BaseModel):
    """Thresholds of `verify`."""

    oldest_ready_s: float = Field(
        default=300.0, gt=0, description="Longest time a task may be ready, in seconds."
    )
    dead_letters: int = Field(default=1000, ge=0, description="Most dead letters there may be.")
    closed_s: float = Field(
        default=3600.0, gt=0, description="Longest time a key or limit may be closed, in seconds."
    )
    starved_s: float = Field(
        default=300.0,
        gt=0,
        le=86400,
        description="Longest time that tasks of a key or type may wait while others of its priority run, "
        "in seconds.",
    )
    canary_s: float = Field(
        default=60.0, gt=0, le=600, description="Longest time a canary task may take, in seconds."
    )
