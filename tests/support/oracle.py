"""What the queue promises, in plain Python: the oracle the real one is compared with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from organism_flows.blocks.queue import NewTask
from organism_flows.blocks.task_report import EndedWait
from tests.support.limits_oracle import LimitsOracle

LEASES_A_TASK_MAY_LOSE = 10
FINISHED = ("completed", "failed", "cancelled")
FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass
class SentEvent:
    payload: str
    delivered: bool


@dataclass
class Task:
    id: UUID
    type: str
    domain: str | None
    run_after: datetime
    priority: int
    max_attempts: int | None
    dedup_key: str | None = None
    key: str | None = None
    cost: float = 1.0
    status: str = "queued"
    attempts: int = 0
    claim: int = 0
    lane: str | None = None
    timed_out: int = 0
    lease_lost: int = 0
    interrupted: int = 0
    snoozed: int = 0
    suspicion: int = 0
    cancel_requested: bool = False
    settlements: int = 0
    """Accepted settlements that finished the task: at most one, unless it is redriven in between."""
    finished_at: datetime | None = None
    redriven: int = 0
    expires_at: datetime | None = None
    chunks: list[str] = field(default_factory=list)
    """What was emitted under the newest claim."""
    waits_for: str | None = None
    waited: tuple[str, datetime] | None = None
    """The newest event that it has waited for, and until when."""
    events: dict[str, SentEvent] = field(default_factory=dict)

    @property
    def ended_at(self) -> datetime:
        """When it finished, of one that has."""
        assert self.finished_at is not None
        return self.finished_at

    @property
    def line(self) -> tuple[str, int, str, str]:
        return self.type, self.priority, self.domain or "", self.key or ""

    @classmethod
    def of(cls, new: NewTask) -> Task:
        """As it is when it has just been added."""
        assert new.id is not None
        assert new.run_after is not None
        return cls(
            new.id,
            new.type,
            new.domain,
            new.run_after,
            new.priority,
            new.max_attempts,
            new.dedup_key,
            new.key,
            1.0 if new.cost is None else new.cost,
            expires_at=new.expires_at,
        )


@dataclass
class Oracle:
    """The queue's state and its rules."""

    now: datetime
    lease_s: float
    tasks: dict[UUID, Task] = field(default_factory=dict)
    leases: dict[str, datetime] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    """Lanes without a lease whose tasks have not been taken back yet."""
    newest_claim: int = 0
    paused: set[tuple[str, str]] = field(default_factory=set)
    closed: dict[tuple[str, str], datetime] = field(default_factory=dict)
    """When each type and key that was closed opens."""
    max_attempts: dict[str, int] = field(default_factory=dict)
    max_interruptions: dict[str, int | None] = field(default_factory=dict)
    max_snoozes: dict[str, int | None] = field(default_factory=dict)
    """By type, where the task does not say."""
    limits: LimitsOracle = field(default_factory=LimitsOracle)

    def added(self, task: Task) -> UUID:
        """The id under which the task is known from now on: its own, or that of its duplicate."""
        for other in self.tasks.values():
            same = (other.type, other.dedup_key) == (task.type, task.dedup_key)
            if task.dedup_key and same and other.status not in FINISHED:
                return other.id
        self.tasks[task.id] = task
        return task.id

    def attempts_allowed(self, task: Task) -> int:
        return task.max_attempts or self.max_attempts.get(task.type, 5)

    def claimable(self, lane: str) -> list[Task]:
        """What a lane may claim, each line in the order it must be."""
        return (
            [t for t in self.ready() if not self.late(t)]
            if self.leases.get(lane, self.now) > self.now
            else []
        )

    def late(self, task: Task) -> bool:
        return task.expires_at is not None and task.expires_at <= self.now

    def expire(self) -> int:
        """How many waiting tasks were too late to begin."""
        late = [t for t in self.tasks.values() if t.status in ("created", "queued", "retry") and self.late(t)]
        for task in late:
            task.status = "failed"
            self.finished(task)
        return len(late)

    def ready(self) -> list[Task]:
        """What is due, expired or not."""
        ready = [
            t
            for t in self.tasks.values()
            if t.status in ("queued", "retry")
            and t.run_after <= self.now
            and ("type", t.type) not in self.paused
            and ("domain", t.domain) not in self.paused
            and self.closed.get((t.type, t.key or ""), self.now) <= self.now
        ]
        return sorted(ready, key=lambda t: (-t.priority, t.run_after, t.id.bytes))

    def running(self) -> Counter[tuple[str, str]]:
        """What lanes hold, by type and key."""
        return Counter((t.type, t.key or "") for t in self.tasks.values() if t.status == "running")

    def holding(self, lane: str) -> set[int]:
        """The claims of a lane whose tasks run."""
        return {task.claim for task in self.tasks.values() if task.status == "running" and task.lane == lane}

    def left_behind(self, lane: str) -> list[Task]:
        """What a lane may claim, is the first of its line, and waits for no limit."""
        running = self.running()
        first = {task.line: task for task in reversed(self.claimable(lane))}
        return [
            t
            for t in first.values()
            if not self.limits.blocks(self.now, t.type, t.key or "", t.cost, running)
        ]

    def check_claim(self, lane: str, limit: int, ready: list[Task], claimed: list[UUID]) -> None:
        """As many as there are, by priority, and within a line in order; lines of one priority take turns.

        Args:
            ready: What was claimable before.
            claimed: What was claimed, which the oracle knows by now.
        """
        assert set(claimed) <= {t.id for t in ready}, "claimed what must not be claimed"
        tasks = [self.tasks[i] for i in claimed]
        left = self.left_behind(lane)
        assert len(tasks) == limit or not left, "left behind what there is room for"
        assert len(tasks) <= limit
        lowest = min((t.priority for t in tasks), default=0)
        # Lines of one type and priority share a claim. What one of them does not need of its share is for
        # lower priorities; the others have it in the next claim. A line with none but expired tasks has its
        # share too.
        shares = Counter(line[:2] for line in {t.line for t in [*ready, *self.ready()]})
        alone = [t for t in left if shares[t.line[:2]] == 1]
        assert all(t.priority <= lowest for t in alone), "a higher priority waits"
        for line in {t.line for t in ready}:
            mine = [t.id for t in tasks if t.line == line]
            assert set(mine) == {t.id for t in [t for t in ready if t.line == line][: len(mine)]}

    def claimed(self, lane: str, task_id: UUID, claim: int) -> None:
        task = self.tasks[task_id]
        assert claim > task.claim, "a claim token must grow"
        self.newest_claim = max(self.newest_claim, claim)
        task.status, task.lane, task.claim, task.waits_for = "running", lane, claim, None
        task.chunks = []
        task.attempts += 1
        self.limits.begun(claim, self.now, task.type, task.key or "", task.cost)

    def check_limits(self, claimed: list[UUID]) -> None:
        """What has just been claimed exceeds no limit."""
        tasks = [self.tasks[i] for i in claimed]
        self.limits.check_not_above(self.now, {(t.type, t.key or "") for t in tasks}, self.running())

    def holds_some(self, claims: list[int]) -> bool:
        return any(t.status == "running" and t.claim in claims for t in self.tasks.values())

    def emit(self, task_id: UUID, claim: int, texts: list[str]) -> bool:
        """False where the claim is stale."""
        task = self.tasks.get(task_id)
        if task is None or task.claim != claim or task.status != "running":
            return False
        task.chunks += texts
        return True

    def settle(self, task_id: UUID, claim: int, cause: str, spent: float | None = None) -> str | None:
        """The task's new status, or None when the claim is stale."""
        task = self.tasks.get(task_id)
        if task is None or task.claim != claim or task.status != "running":
            return None
        if spent is not None:
            self.limits.spent(claim, self.now, spent)
        task.timed_out += cause == "timed_out"
        if cause == "completed":
            task.status = "completed"
        elif cause == "cancelled" or task.cancel_requested:
            task.status = "cancelled"
        elif cause == "rejected" or task.attempts >= self.attempts_allowed(task):
            task.status = "failed"
        else:
            task.status = "retry"
        if cause in ("completed", "rejected"):
            task.suspicion = 0
        self.handed_back(task)
        return task.status

    def snooze(self, task_id: UUID, claim: int, after_s: float, *, closes: bool) -> str | None:
        """The task's new status, or None when the claim is stale."""
        task = self.tasks.get(task_id)
        if task is None or task.claim != claim or task.status != "running":
            return None
        until = self.now + timedelta(seconds=after_s)
        if closes and until > self.now:
            place = (task.type, task.key or "")
            self.closed[place] = max(self.closed.get(place, until), until)
        if task.snoozed >= (self.max_snoozes.get(task.type) or 100) and not task.cancel_requested:
            task.status = "failed"
        else:
            task.attempts -= 1
            task.snoozed += 1
            task.status = "retry" if task.attempts else "queued"
            if not task.cancel_requested:
                task.run_after = until
        self.handed_back(task)
        return task.status

    def wait(self, task_id: UUID, claim: int, event: str, after_s: float | None) -> str | None:
        """The task's new status, or None when the claim is stale."""
        task = self.tasks.get(task_id)
        if task is None or task.claim != claim or task.status != "running":
            return None
        sent = task.events.get(event)
        spent = (sent is not None and sent.delivered) or task.snoozed >= (
            self.max_snoozes.get(task.type) or 100
        )
        if spent and not task.cancel_requested:
            task.status = "failed"
        else:
            task.attempts -= 1
            task.snoozed += 1
            task.status = "queued"
            if not task.cancel_requested:
                task.run_after = FOREVER if after_s is None else self.now + timedelta(seconds=after_s)
                task.waits_for, task.waited = event, (event, task.run_after)
                if sent is not None:
                    self.deliver(task, sent)
        self.handed_back(task)
        return "waiting" if task.status == "queued" and task.waits_for else task.status

    def deliver(self, task: Task, sent: SentEvent) -> None:
        sent.delivered, task.waits_for, task.run_after = True, None, self.now

    def send_event(self, task_id: UUID, name: str, payload: str) -> str | None:
        """What an event does; None where the task is over."""
        task = self.tasks[task_id]
        if name in task.events:
            return "duplicate"
        if task.status in FINISHED:
            return None
        sent = task.events[name] = SentEvent(payload, False)
        if task.status == "queued" and task.waits_for == name:
            self.deliver(task, sent)
        return "resumed" if sent.delivered else "kept"

    def ended_wait(self, task: Task) -> EndedWait | None:
        """What a handler gets to know of the newest wait."""
        if task.waited is None:
            return None
        name, until = task.waited
        sent = task.events.get(name)
        if sent is not None and sent.delivered:
            return EndedWait(name, sent.payload, False, False)
        return EndedWait(name, None, True, False) if until <= self.now else None

    def handed_back(self, task: Task) -> None:
        if task.cancel_requested and task.status in ("queued", "retry"):
            task.status = "cancelled"
        task.cancel_requested = False
        task.lane = None
        self.finished(task)

    def finished(self, task: Task) -> None:
        if task.status in FINISHED:
            task.settlements += 1
            task.finished_at = self.now

    def release(self, task_id: UUID, claim: int, *, suspicion: int, interrupted: bool) -> bool:
        task = self.tasks.get(task_id)
        if task is None or task.claim != claim or task.status != "running":
            return False
        task.attempts -= 1
        task.interrupted += interrupted
        task.status = "retry" if task.attempts else "queued"
        task.suspicion += suspicion
        limit = self.max_interruptions.get(task.type)
        if interrupted and limit is not None and task.interrupted >= limit:
            task.status = "cancelled" if task.cancel_requested else "failed"
        self.handed_back(task)
        return True

    def release_unanswered(self, lane: str, known: list[int]) -> set[UUID]:
        """What the lane holds and does not know of goes back."""
        unknown = {t.id: t.claim for t in self.tasks.values() if t.lane == lane and t.claim not in known}
        return {
            task_id
            for task_id, claim in unknown.items()
            if self.release(task_id, claim, suspicion=0, interrupted=False)
        }

    def cancel_requests(self, lane: str) -> list[int]:
        return sorted(t.claim for t in self.tasks.values() if t.lane == lane and t.cancel_requested)

    def cancel(self, task_id: UUID) -> str | None:
        """``cancelled``, ``requested``, or None where it had ended."""
        task = self.tasks.get(task_id)
        if task is None or task.status in FINISHED:
            return None
        if task.status == "running":
            task.cancel_requested = True
            return "requested"
        task.status = "cancelled"
        self.finished(task)
        return "cancelled"

    def redrive(
        self, *, type: str | None, since: datetime | None, cancelled: bool, limit: int | None
    ) -> tuple[int, int]:
        """How many were put back, and how many stayed because an unfinished task has their key."""
        put_back = kept_out = 0
        for status in ("failed", "cancelled") if cancelled else ("failed",):
            found = [
                t
                for t in self.tasks.values()
                if t.status == status and t.type == (type or t.type) and t.ended_at >= (since or t.ended_at)
            ]
            for task in sorted(found, key=lambda t: (t.ended_at, t.id.bytes)):
                if task.dedup_key and any(
                    (t.type, t.dedup_key) == (task.type, task.dedup_key) and t.status not in FINISHED
                    for t in self.tasks.values()
                ):
                    kept_out += 1
                elif limit is None or put_back < limit:
                    task.status, task.run_after, task.finished_at = "queued", self.now, None
                    task.attempts = task.timed_out = task.lease_lost = task.interrupted = 0
                    task.snoozed = task.settlements = 0
                    task.redriven += 1
                    task.expires_at = task.waits_for = None
                    put_back += 1
        return put_back, kept_out

    def prune(self, status: str, *, older_than_s: float) -> int:
        """Those that finished so long ago are no more."""
        before = self.now - timedelta(seconds=older_than_s)
        old = [t.id for t in self.tasks.values() if t.status == status and t.ended_at < before]
        for task_id in old:
            del self.tasks[task_id]
        return len(old)

    def deregister(self, lane: str) -> None:
        """The lease ends; while tasks are held, the row stays for the next reap."""
        if self.leases.pop(lane, None) and any(t.lane == lane for t in self.tasks.values()):
            self.ended.add(lane)

    def renew(self, lane: str) -> bool:
        if lane not in self.leases:
            return False
        self.leases[lane] = self.now + timedelta(seconds=self.lease_s)
        return True

    def reap(self) -> tuple[int, int, int]:
        lost = [lane for lane, until in self.leases.items() if until < self.now]
        for lane in lost:
            del self.leases[lane]
        self.ended.clear()
        retried = failed = 0
        for task in self.tasks.values():
            if task.status == "running" and task.lane not in self.leases:
                task.lease_lost += 1
                task.attempts -= 1
                lost_too_often = task.lease_lost >= LEASES_A_TASK_MAY_LOSE and not task.cancel_requested
                task.status = "failed" if lost_too_often else "retry"
                failed += lost_too_often
                retried += not lost_too_often
                self.handed_back(task)
        return len(lost), retried, failed
