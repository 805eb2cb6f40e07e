"""Progress that starting and stopping the stack report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from organism_flows.blocks.errors import OrganismError

Phase = Literal["starting", "ready", "kept", "stopping", "stopped", "failed", "note"]


@dataclass(frozen=True)
class Event:
    """Event of one component."""

    component: str
    phase: Phase
    seconds: float = 0.0
    """Time since the component's start; 0 if it is of no interest."""
    detail: str = ""


Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """Report nothing."""


class StepTimer:
    """Reports the start and end of a component. Call it within its block to report what happens."""

    def __init__(self, component: str, progress: Progress) -> None:
        self.component = component
        self.progress = progress
        self.started = time.monotonic()

    def __call__(self, detail: str, phase: Phase = "starting") -> None:
        self.progress(Event(self.component, phase, time.monotonic() - self.started, detail))

    async def __aenter__(self) -> StepTimer:
        self("")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if error is None:
            self("", "ready")
        elif not isinstance(error, asyncio.CancelledError):
            self(error.what if isinstance(error, OrganismError) else str(error), "failed")
