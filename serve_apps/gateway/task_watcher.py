"""Waiting for tasks: one statement for all that anybody waits for, while somebody does.

Nothing is added to settlements: Postgres says nothing of its own accord when a task ends, and a poll costs
only whoever waits (docs/decisions/0011-gateway.md).
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
"""Shortest time between two polls."""
POLL_SHARE = 20
"""At most one in so many seconds goes into polling, however many are waited for,"""
POLL_PAUSE_LIMIT_S = 2.0
"""unless that were to mean a longer pause than this."""
OUTAGE_PAUSE_S = 0.5

logger = logging.getLogger("organism.gateway")


class _Watcher(Protocol):
    """Somebody who waits, and is given how each task that they wait for stands."""

    def tell(self, task_id: UUID, state: TaskState | None) -> None: ...


class _OfOne:
    """What one waiter has been told, and has not yet looked at."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.known = False
        self.state: TaskState | None = None

    def tell(self, task_id: UUID, state: TaskState | None) -> None:
        if not self.known or state != self.state:
            self.known, self.state = True, state
            self.told.set()


class _OfMany:
    """Which of many tasks have ended, or are gone, since that was last asked."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.ended: dict[UUID, TaskState | None] = {}

    def tell(self, task_id: UUID, state: TaskState | None) -> None:
        if state is None or state.status in FINISHED:
            self.ended[task_id] = state
            self.told.set()


class TaskWatcher:
    """Everybody who waits for a task.

    Args:
        states: Reads how tasks stand; one that does not exist is left out.
    """

    def __init__(self, states: Callable[[Sequence[UUID]], Awaitable[dict[UUID, TaskState]]]) -> None:
        self._states = states
        self._watchers: dict[UUID, set[_Watcher]] = {}
        self._somebody = asyncio.Event()
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
        """How many wait now."""
        return sum(len(watchers) for watchers in self._watchers.values())

    async def changes(self, task_id: UUID) -> AsyncGenerator[TaskState | None, None]:
        """How a task stands now, and each time that has changed, until it has ended.

        What changes twice between two looks is seen once. None: the task does not exist, or not any more.
        An outage is waited out.
        """
        watcher = _OfOne()
        self._add(task_id, watcher)
        try:
            while True:
                await watcher.told.wait()
                watcher.told.clear()
                yield watcher.state
                if watcher.state is None or watcher.state.status in FINISHED:
                    return
        finally:
            self._remove(task_id, watcher)

    async def ends(self, task_ids: Collection[UUID]) -> AsyncGenerator[dict[UUID, TaskState | None], None]:
        """Yield those of many tasks that have ended since the last time, until all have; None: it is gone.

        As for one, an outage is waited out.
        """
        left = set(task_ids)
        watcher = _OfMany()
        for task_id in left:
            self._add(task_id, watcher)
        try:
            while left:
                await watcher.told.wait()
                watcher.told.clear()
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
        self._somebody.set()

    def _remove(self, task_id: UUID, watcher: _Watcher) -> None:
        self._watchers[task_id].discard(watcher)
        if not self._watchers[task_id]:
            del self._watchers[task_id]

    async def _keep_polling(self) -> None:
        while True:
            if not self._watchers:
                self._somebody.clear()
                await self._somebody.wait()
            started = time.monotonic()
            pause = OUTAGE_PAUSE_S
            try:
                # Those who come while it is read are not told: it may be older than what they have seen.
                asked = {task_id: list(watchers) for task_id, watchers in self._watchers.items()}
                states = await self._states(list(asked))
                for task_id, watchers in asked.items():
                    for watcher in watchers:
                        watcher.tell(task_id, states.get(task_id))
                took = time.monotonic() - started
                pause = min(max(POLL_SHARE * took, POLL_PAUSE_S), POLL_PAUSE_LIMIT_S)
                self.polls += 1
            except OUTAGE:
                pass
            except Exception:
                logger.exception("a look at the tasks that are waited for failed")
            await asyncio.sleep(pause)
