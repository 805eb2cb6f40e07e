"""What starting and stopping report while they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["starting", "ready", "kept", "stopping", "stopped", "failed", "note"]


@dataclass(frozen=True)
class Event:
    """One thing that happened to one component."""

    component: str
    phase: Phase
    seconds: float = 0.0
    """Since the component's start; 0 where it says nothing."""
    detail: str = ""


Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """Report nothing."""
