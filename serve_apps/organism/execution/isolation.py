"""Where suspects run: tasks that a replica has died with.

In a process of their own, so that the next death says whose doing it was, costs nobody else anything, and
nobody has to wait for it. Where a second process would need what there is only once, such as the memory of a
GPU, on the replica itself, beside everything else but one suspect at a time.
"""

from __future__ import annotations

import asyncio
import logging

from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.execution.jobs import Invocation
from organism_flows.serve_apps.organism.execution.protocol import SharedRules
from organism_flows.serve_apps.organism.handler_api.handler import Handler
from organism_flows.serve_apps.organism.processes.pool import ProcessPool

logger = logging.getLogger("ray.serve.organism")

DELIVERY_S = 0.05
"""The word that a suspect begins on this replica needs the event loop, and time, to leave it."""
PROCESSES = 16
"""Most suspects of one organ that run at once on one replica: each process imports the handler again."""
KEPT_S = 60.0
"""For so long after the last suspect its processes are kept: where one death is, the next is near."""


class Isolation:
    """The suspects of one organ.

    Args:
        config: Of the organ.
        handler: Its handler.
        rules: What the organ shares with the others.
    """

    def __init__(self, config: OrganConfig, handler: Handler, rules: SharedRules) -> None:
        self._config = config
        self._rules = rules
        self._apart = handler.processes is not None
        """The organ has processes anyway."""
        self._in_process = config.isolates
        self._processes: ProcessPool | None = None
        self._closing: asyncio.TimerHandle | None = None
        self.running = 0
        """Suspects in handlers."""

    @property
    def has_room(self) -> bool:
        """Whether another suspect may start."""
        if self._apart or self._in_process:
            return self.running < PROCESSES
        return self._rules.suspect is None

    def enter(self, run: Invocation) -> bool:
        """Take in a suspect that starts. False: it runs on the replica itself."""
        run.suspect = True
        self.running += 1
        if self._apart:
            return True
        if not self._in_process:
            self._rules.suspect = run
            return False
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._processes is None:
            self._processes = ProcessPool(self._config)
            self._processes.expand(min(self._config.concurrency, PROCESSES))
        run.processes = self._processes
        return True

    def leave(self, run: Invocation) -> None:
        """A suspect has ended."""
        self.running -= 1
        if self._rules.suspect is run:
            self._rules.suspect = None
            self._rules.pump()
        if not self.running and self._processes is not None:
            self._closing = asyncio.get_running_loop().call_later(KEPT_S, self.close)

    def give_up(self) -> None:
        """No process starts: run suspects on the replica from now on."""
        logger.error(
            "organ %s: no process starts for a task that a replica died with; it runs on this replica",
            self._config.id,
        )
        self._in_process = False

    def close(self) -> None:
        """End the processes."""
        if self._processes is not None:
            self._processes.shrink(min(self._config.concurrency, PROCESSES))
            self._processes = None
