"""The result of one check: of `status`, of `verify`, or of an alert."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

FindingStatus: TypeAlias = Literal["ok", "degraded", "failed"]
WORST_FIRST: tuple[FindingStatus, ...] = ("failed", "degraded", "ok")


class Finding(BaseModel):
    """Result of one check."""

    model_config = ConfigDict(frozen=True)

    check: str
    """Part and aspect, such as ``postgres: clock``."""
    status: FindingStatus
    evidence: str
    """What the check saw, on one line."""
    action: str = ""
    """What to do about it; empty if the status is ``ok``."""
    seconds: float = 0.0
    """Time that the check took."""

    @property
    def ok(self) -> bool:
        """Return True if the status is ``ok``."""
        return self.status == "ok"


def ok(check: str, evidence: str = "") -> Finding:
    """Return a finding about a part that works."""
    return Finding(check=check, status="ok", evidence=evidence)


def degraded(check: str, evidence: str, action: str) -> Finding:
    """Return a finding about a part that works, but not as it should or not for long."""
    return Finding(check=check, status="degraded", evidence=evidence, action=action)


def failed(check: str, evidence: str, action: str = "") -> Finding:
    """Return a finding about a part that does not work."""
    return Finding(check=check, status="failed", evidence=evidence, action=action)
