"""Waiting for tasks: one statement polls all tasks that clients wait for, as long as any client waits.

Settlements do nothing extra: Postgres does not notify of its own accord when a task ends, and polling costs
only those who wait (docs/decisions/0011-gateway.md).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Protocol, Self
from uuid import UUID

from organism_flows.blocks.queue import FINISHED, TaskState
from organism_flows.serve_apps.gateway.database import OUTAGE

POLL_PAUSE_S = 0.02
"""Shortest pause between two polls, in seconds."""
POLL_SHARE = 20
"""Upper bound on the share of time spent polling, as 1/N, unless `POLL_PAUSE_LIMIT_S` ends the pause."""
POLL_PAUSE_LIMIT_S = 2.0
"""Longest pause between two polls, in seconds."""
OUTAGE_PAUSE_S = 0.5
"""Pause after a poll that failed, in seconds."""

logger = logging.getLogger("organism.gateway")


class _Watcher(Protocol):
    """Receives the state of each task that a client waits for."""

    def notify(self, task_id: UUID, state: TaskState | None) -> None: ...


class _OfOne:
    """Watcher of one task: keeps its newest state until the client reads it."""

    def __init__(self) -> None:
        self.notified = asyncio.Event()
        self.known = False
        self.state: TaskState | None = None

    def notify(self, task_id: UUID, state: TaskState | None) -> None:
        if not self.known or state != self.state:
            self.known, self.state = True, state
            self.notified.set()


class _OfMany:
    """Watcher of many tasks: collects those that have ended, or are gone, until the client reads them."""

    def __init__(self) -> None:
        self.notified = asyncio.Event()
        self.ended: dict[UUID, TaskState | None] = {}

    def notify(self, task_id: UUID, state: TaskState | None) -> None:
        if state is None or state.status in FINISHED:
            self.ended[task_id] = state
            self.notified.set()


class TaskWatcher:
    """Polls the tasks that clients wait for, and passes their states on.

    Args:
        states: Reads the states of tasks, by id. A task that does not exist is left out.
    """

    def __init__(self, states: Callable[[Sequence[UUID]], Awaitable[dict[UUID, TaskState]]]) -> None:
        self._states = states
        self._watchers: dict[UUID, set[_Watcher]] = {}
        self._awaited = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.polls = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_polling(), name="gateway-waiting")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @property
    def waiters(self) -> int:
        """Return the number of waits: a request that waits for ten tasks counts ten times."""
        return sum(len(watchers) for watchers in self._watchers.values())

    async def changes(self, task_id: UUID) -> AsyncGenerator[TaskState | None, None]:
        """Yield the state of a task now and after each change, until the task has ended.

        Of several changes between two polls only the last is seen. An outage of Postgres is waited out.

        Yields:
            `None` means that the task does not exist, or no longer exists.
        """
        watcher = _OfOne()
        self._add(task_id, watcher)
        try:
            while True:
                await watcher.notified.wait()
                watcher.notified.clear()
                yield watcher.state
                if watcher.state is None or watcher.state.status in FINISHED:
                    return
        finally:
            self._remove(task_id, watcher)

    async def ends(self, task_ids: Collection[UUID]) -> AsyncGenerator[dict[UUID, TaskState | None], None]:
        """Yield those of many tasks that have ended since the last time, until all have.

        An outage of Postgres is waited out.

        Yields:
            States by task id. `None` means that the task does not exist, or no longer exists.
        """
        left = set(task_ids)
        watcher = _OfMany()
        for task_id in left:
            self._add(task_id, watcher)
        try:
            while left:
                await watcher.notified.wait()
                watcher.notified.clear()
                ended, watcher.ended = watcher.ended, {}
                for task_id in ended.keys() & left:
                    self._remove(task_id, watcher)
                    left.discard(task_id)
                yield ended
        finally:
            for task_id in left:
                self._remove(task_id, watcher)

    def _add(self, task_id: UUID, watcher: _Watcher) -> None:
        self._watchers.setdefault(task_id, set()).add(watcher)
        self._awaited.set()

    def _remove(self, task_id: UUID, watcher: _Watcher) -> None:
        self._watchers[task_id].discard(watcher)
        if not self._watchers[task_id]:
            del self._watchers[task_id]

    async def _keep_polling(self) -> None:
        while True:
            if not self._watchers:
                self._awaited.clear()
                await self._awaited.wait()
            started = time.monotonic()
            pause = OUTAGE_PAUSE_S
            try:
                # Watchers that are added during the read are left out: the states that are read may be older
                # than what those clients have seen.
                asked = {task_id: list(watchers) for task_id, watchers in self._watchers.items()}
                states = await self._states(list(asked))
                for task_id, watchers in asked.items():
                    for watcher in watchers:
                        watcher.notify(task_id, states.get(task_id))
                took = time.monotonic() - started
                pause = min(max(POLL_SHARE * took, POLL_PAUSE_S), POLL_PAUSE_LIMIT_S)
                self.polls += 1
            except OUTAGE:
                pass
            except Exception:
                logger.exception("reading the tasks that are waited for failed")
            await asyncio.sleep(pause)
