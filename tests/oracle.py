"""What the queue promises, in plain Python: the oracle the real one is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

LEASES_A_TASK_MAY_LOSE = 10


@dataclass
class Task:
    id: UUID
    run_after: datetime
    priority: int
    max_attempts: int
    status: str = "queued"
    attempts: int = 0
    claim: int = 0
    lane: str | None = None
    timed_out: int = 0
    lease_lost: int = 0
    suspicion: int = 0
    settlements: int = 0
    """Accepted settlements that finished the task: at most one, ever."""


@dataclass
class Oracle:
    """The queue's state and its rules."""

    now: datetime
    lease_s: float
    tasks: dict[UUID, Task] = field(default_factory=dict)
    leases: dict[str, datetime] = field(default_factory=dict)
    newest_claim: int = 0

    def expected_claim(self, lane: str, limit: int) -> list[UUID]:
        if self.leases.get(lane, self.now) <= self.now:
            return []
        ready = [
            t for t in self.tasks.values() if t.status in ("queued", "retry") and t.run_after <= self.now
        ]
        ready.sort(key=lambda t: (-t.priority, t.run_after, t.id.bytes))
        return [t.id for t in ready[:limit]]

    def claimed(self, lane: str, task_id: UUID, claim: int) -> None:
        task = self.tasks[task_id]
        assert claim > task.claim, "a claim token must grow"
        self.newest_claim = max(self.newest_claim, claim)
        task.status, task.lane, task.claim = "running", lane, claim
        task.attempts += 1

    def settle(self, task_id: UUID, claim: int, cause: str) -> str | None:
        """The task's new status, or None when the claim is stale."""
        task = self.tasks[task_id]
        if task.claim != claim or task.status != "running":
            return None
        task.timed_out += cause == "timed_out"
        if cause == "completed":
            task.status = "completed"
        elif cause == "rejected" or task.attempts >= task.max_attempts:
            task.status = "failed"
        else:
            task.status = "retry"
        if cause in ("completed", "rejected"):
            task.suspicion = 0
        task.settlements += task.status in ("completed", "failed")
        task.lane = None
        return task.status

    def release(self, task_id: UUID, claim: int, *, suspicion: int) -> bool:
        task = self.tasks[task_id]
        if task.claim != claim or task.status != "running":
            return False
        task.attempts -= 1
        task.status = "retry" if task.attempts else "queued"
        task.suspicion = max(task.suspicion, suspicion)
        task.lane = None
        return True

    def renew(self, lane: str) -> bool:
        if lane not in self.leases:
            return False
        self.leases[lane] = self.now + timedelta(seconds=self.lease_s)
        return True

    def reap(self) -> tuple[int, int, int]:
        lost = [lane for lane, until in self.leases.items() if until < self.now]
        for lane in lost:
            del self.leases[lane]
        retried = failed = 0
        for task in self.tasks.values():
            if task.status == "running" and task.lane not in self.leases:
                task.lease_lost += 1
                task.attempts -= 1
                task.lane = None
                if task.lease_lost >= LEASES_A_TASK_MAY_LOSE:
                    task.status = "failed"
                    task.settlements += 1
                    failed += 1
                else:
                    task.status = "retry"
                    retried += 1
        return len(lost), retried, failed
