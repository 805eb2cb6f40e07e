"""From where on `verify` calls something degraded."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Limits(BaseModel):
    """Limits of `verify`."""

    oldest_ready_s: float = Field(
        default=300.0, gt=0, description="A task that is ready for longer (seconds) is too old."
    )
    dead_letters: int = Field(default=1000, ge=0, description="More dead letters than this are too many.")
    canary_s: float = Field(
        default=60.0, gt=0, le=600, description="A canary task that takes longer (seconds) has failed."
    )
