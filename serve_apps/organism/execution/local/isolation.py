"""Isolation of suspects, which are tasks that were on a replica when it died.

A suspect runs in a process of its own. Then the next death shows which task caused it, costs no other task
anything, and delays none. A second process may need something that exists only once, such as the memory of a
GPU. Then suspects run on the replica itself, together with other tasks, but one suspect at a time.
"""

from __future__ import annotations

import asyncio
import logging

from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.execution.jobs import Invocation
from organism_flows.serve_apps.organism.execution.shared_state import SharedState
from organism_flows.serve_apps.organism.handler_api.handler import Handler
from organism_flows.serve_apps.organism.processes.pool import ProcessPool

logger = logging.getLogger("ray.serve.organism")

DELIVERY_S = 0.05
"""Delay before a suspect begins on this replica, in seconds: the report that it begins must leave first."""
PROCESSES = 16
"""Most suspects of one organ that run at once on one replica: each process imports the handler again."""
KEPT_S = 60.0
"""Time for which processes are kept after the last suspect, in seconds: deaths tend to come together."""


class Isolation:
    """The suspects of one organ.

    Args:
        config: Configuration of the organ.
        handler: Handler of the organ.
        shared: What all organs of the replica share.
    """

    def __init__(self, config: OrganConfig, handler: Handler, shared: SharedState) -> None:
        self._config = config
        self._shared = shared
        self._apart = handler.processes is not None
        """True if the organ runs all its tasks in processes."""
        self._in_process = config.isolates
        self._processes: ProcessPool | None = None
        self._closing: asyncio.TimerHandle | None = None
        self.running = 0
        """Suspects in handlers."""

    @property
    def has_room(self) -> bool:
        """Return True if another suspect may start."""
        if self._apart or self._in_process:
            return self.running < PROCESSES
        return self._shared.suspect is None

    def enter(self, run: Invocation) -> bool:
        """Count a suspect that starts, and return True if it runs in a process."""
        run.suspect = True
        self.running += 1
        if self._apart:
            return True
        if not self._in_process:
            self._shared.suspect = run
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
        """Count a suspect that has ended."""
        self.running -= 1
        if self._shared.suspect is run:
            self._shared.suspect = None
            self._shared.pump()
        if not self.running and self._processes is not None:
            self._closing = asyncio.get_running_loop().call_later(KEPT_S, self.close)

    def give_up(self) -> None:
        """Run suspects on the replica from now on, because no process starts."""
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
