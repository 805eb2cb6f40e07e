"""Waiting for tasks until they change or end, by one poll for all clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from uuid import UUID

from organism_flows.blocks.queue import FINISHED, TaskState
from organism_flows.serve_apps.gateway.shared_poll import SharedPoll


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


class TaskWatcher(SharedPoll[UUID, TaskState]):
    """Polls the tasks that clients wait for, and passes their states on."""

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
