"""The jobs of one organ that wait for its handler, and which of them are next."""

from __future__ import annotations

from collections import deque

from serve_apps.organism.config import OrganConfig
from serve_apps.organism.gate import Gate
from serve_apps.organism.jobs import Job
from serve_apps.organism.stream import Call


class Waiting:
    """Two lines of jobs: those of exclusive calls, which may start while the gate is closed to the others,
    and the others.

    Args:
        config: Of the organ: whether its handler takes batches, and how large ones.
        gate: Says what may start now.
    """

    def __init__(self, config: OrganConfig, gate: Gate) -> None:
        self._config = config
        self._gate = gate
        self._batch_size = float(config.max_batch_size if config.target_ms is None else 1)
        self._urgent: deque[Job] = deque()
        self._others: deque[Job] = deque()

    def __bool__(self) -> bool:
        return bool(self._urgent or self._others)

    @property
    def count(self) -> int:
        """Jobs whose outcome is still awaited."""
        return sum(not job.settled for job in (*self._urgent, *self._others))

    def add(self, job: Job) -> None:
        """Let ``job`` wait behind the others."""
        (self._others if job.ticket is None else self._urgent).append(job)

    def put_back(self, job: Job) -> None:
        """Let ``job``, which has been next already, wait before the others."""
        (self._others if job.ticket is None else self._urgent).appendleft(job)

    def learn(self, tasks: int, elapsed_ms: float) -> None:
        """A batch of so many tasks took so long: size the next ones to take ``target_ms``."""
        if self._config.target_ms is None:
            return
        fitting = tasks * self._config.target_ms / max(elapsed_ms, 0.001)
        # Half way there, and at most doubled: one batch that took long or short says little.
        size = min((self._batch_size + fitting) / 2, 2 * self._batch_size)
        self._batch_size = min(max(size, 1.0), self._config.max_batch_size)

    def next(self, call: Call | None = None) -> list[Job]:
        """The jobs of the next handler call; one, but for batch handlers. Empty: nothing may start.

        Args:
            call: Only if they are of this call.
        """
        for line in (self._urgent, self._others):
            while line and line[0].settled:
                line.popleft()
            if not line or not self._gate.admits(line[0].ticket):
                continue
            if call is not None and line[0].call is not call:
                return []
            jobs = [line.popleft()]
            if self._config.batch and not jobs[0].alone:
                # One call has one deadline, so only tasks of one timeout share it.
                alike = (jobs[0].timeout_s, jobs[0].ticket)
                while line and len(jobs) < int(self._batch_size):
                    if line[0].settled:
                        line.popleft()
                    elif line[0].alone or (line[0].timeout_s, line[0].ticket) != alike:
                        break
                    else:
                        jobs.append(line.popleft())
            return jobs
        return []
