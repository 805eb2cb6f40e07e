"""The dispatch runs of a chaos run: one claims at any time; another takes over when it ends or leaves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from tests.support.stack import Stack

START_S = 60.0
"""Seconds that the lanes of a run have to start."""


class Dispatches:
    """Dispatch runs, started one after another.

    Args:
        stack: Where.
        queue: Its queue.
        lanes: Of each run.
        ended: Called with the exit code of each run that ends; -9 when it was killed.
    """

    def __init__(self, stack: Stack, queue: Queue, lanes: int, ended: Callable[[int], None]) -> None:
        self.newest: subprocess.Popen[bytes] | None = None
        """The run that claims, or is about to."""
        self._stack = stack
        self._queue = queue
        self._lanes = lanes
        self._ended = ended
        self._running: list[subprocess.Popen[bytes]] = []

    async def keep_one(self) -> None:
        """Start a run whenever none is left to claim; never returns."""
        while True:
            for process in list(self._running):
                if (code := process.poll()) is None:
                    continue
                self._running.remove(process)
                self._ended(code)
                if process is self.newest and code != -9:
                    await asyncio.sleep(1.0)
            if self.newest not in self._running:
                self._start()
            await asyncio.sleep(0.05)

    async def relieve(self) -> str | None:
        """Start another run, and ask the lanes there were to leave as soon as it has lanes.

        Returns:
            The runs that leave; None: there was none.
        """
        before = await self._claiming()
        if not before:
            return None
        self._start()
        deadline = time.monotonic() + START_S
        while not await self._claiming() - before and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        with suppress(*TRANSIENT_ERRORS):
            for run in before:
                await self._queue.operator.request_leave(run)
        return f"dispatch run {', '.join(sorted(before))}"

    async def stop(self) -> None:
        """End all runs."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, 60)
            if process.poll() is None:
                process.kill()
                process.wait()

    async def _claiming(self) -> set[str]:
        with suppress(*TRANSIENT_ERRORS):
            return {lane.run for lane in await self._queue.reader.lanes() if lane.claiming and lane.run}
        return set()

    def _start(self) -> None:
        command = ("dispatch", "--until-empty", "--lanes", str(self._lanes))
        with (self._stack.home / "chaos-dispatch.log").open("ab") as log:
            self.newest = subprocess.Popen(
                [sys.executable, "-m", "organism_flows.deployments.cli.main", *command],
                env=self._stack.env,
                cwd=self._stack.home,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._running.append(self.newest)
