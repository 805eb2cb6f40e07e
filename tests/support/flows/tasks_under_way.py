"""Tasks of a run that is under way."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from organism_flows.blocks.queue import NewTask, Queue
from tests.support.stack import Stack


class Tasks:
    """Some tasks that end when told, and one that does not within the grace period."""

    def __init__(self, stack: Stack, queue: Queue) -> None:
        self.queue = queue
        self.sign = stack.home / f"sign-{uuid4().hex}"
        self.never = stack.home / f"never-{uuid4().hex}"

    async def submit(self) -> None:
        ending = [NewTask(type="slow", params={"until": str(self.sign)}, max_attempts=1) for _ in range(3)]
        endless = NewTask(type="slow", params={"until": str(self.never)}, max_attempts=1)
        *self.ending, self.endless = [str(i) for i in await self.queue.submit([*ending, endless])]

    async def all_run(self) -> bool:
        return (await self.queue.reader.counts())["running"] == 4

    def let_end(self) -> None:
        Path(self.sign).touch()

    async def check(self) -> None:
        """What was in flight finished; what could not was handed back uncharged; nobody is left."""
        for task_id in self.ending:
            assert (await self.queue.get(task_id)).status == "completed"
        task = await self.queue.get(self.endless)
        assert (task.status, task.attempts) == ("queued", 0)
        assert [attempt.cause for attempt in task.history] == ["interrupted"]
        assert await self.queue.reader.lanes() == []
