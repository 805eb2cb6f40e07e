"""The queue of the jobs that wait for one organ's handler."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.execution.jobs import Job
from organism_flows.serve_apps.organism.execution.outcome_stream import BatchCall


class JobQueue:
    """Two queues of jobs: suspects, of which fewer may run at once, and all others.

    Args:
        config: Configuration of the organ: whether its handler takes batches, and of what size.
    """

    def __init__(self, config: OrganConfig) -> None:
        self._config = config
        self._batch_size = float(config.max_batch_size if config.target_ms is None else 1)
        self._suspects: deque[Job] = deque()
        self._others: deque[Job] = deque()

    def __bool__(self) -> bool:
        return bool(self._suspects or self._others)

    @property
    def count(self) -> int:
        """Return the number of jobs whose outcome is still awaited."""
        return sum(not job.reported for job in (*self._suspects, *self._others))

    def add(self, jobs: Sequence[Job]) -> None:
        """Add ``jobs``, all of one call, at the end."""
        if any(jobs[0].call.batch.suspicions):
            self._suspects.extend(job for job in jobs if job.suspect)
            jobs = [job for job in jobs if not job.suspect]
        self._others.extend(jobs)

    def again(self, jobs: Sequence[Job], *, alone: bool) -> None:
        """Put ``jobs``, which were taken already, back in front of the others.

        Args:
            jobs: The jobs, in order.
            alone: Give each job a handler call of its own.
        """
        for job in reversed(jobs):
            job.run = None
            job.alone |= alone
            (self._suspects if job.suspect else self._others).appendleft(job)

    def learn(self, tasks: int, elapsed_ms: float) -> None:
        """Size the next batches to take ``target_ms``, from a batch that took ``elapsed_ms``."""
        if self._config.target_ms is None:
            return
        fitting = tasks * self._config.target_ms / max(elapsed_ms, 0.001)
        # Go half of the way, and at most double: the time of one batch says little.
        size = min((self._batch_size + fitting) / 2, 2 * self._batch_size)
        self._batch_size = min(max(size, 1.0), self._config.max_batch_size)

    def next(self, call: BatchCall | None = None, *, suspects: bool = False) -> list[Job]:
        """Take the jobs of the next handler call; one job, except for batch handlers.

        Args:
            call: Take jobs only if the next one is of this call.
            suspects: A suspect may start.

        Returns:
            The jobs; empty if none may start.
        """
        for line in (self._suspects, self._others) if suspects else (self._others,):
            while line and line[0].reported:
                line.popleft()
            if not line:
                continue
            if call is not None and line[0].call is not call:
                return []
            jobs = [line.popleft()]
            if self._config.batch and not (jobs[0].alone or jobs[0].suspect):
                # One call has one deadline, so only tasks of one timeout share it.
                timeout_s, key = jobs[0].timeout_s, jobs[0].key
                while line and len(jobs) < int(self._batch_size):
                    if line[0].reported:
                        line.popleft()
                    elif (
                        line[0].alone
                        or line[0].timeout_s != timeout_s
                        # Those of one call have one key.
                        or (line[0].call is not jobs[0].call and line[0].key != key)
                    ):
                        break
                    else:
                        jobs.append(line.popleft())
            return jobs
        return []
