"""Promises 1, 2, 4, 6 and 8, by comparing the real queue with an oracle over random histories.

Time is the database's and stands still between rules, so even the order of claims is decided.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import count
from typing import Any, Literal
from uuid import NAMESPACE_OID, UUID, uuid5

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from blocks.queue import Batch, Lines, NewTask, Outcomes, Queue, TypePolicy
from blocks.queue.lines import REWIND_S
from blocks.queue.statements import statement
from tests.clock import START, set_clock
from tests.oracle import FINISHED, Oracle, Task

LEASE_S = 15.0
CAUSES = ("completed", "failed", "rejected", "timed_out", "cancelled")
TYPES = ("t", "u")
DOMAINS = (None, "d")


class QueueMachine(RuleBasedStateMachine):
    """One queue, some lanes, and every held claim kept for ever so that stale ones are used too."""

    queue: Queue
    loop: asyncio.AbstractEventLoop

    def wait(self, awaitable):  # type: ignore[no-untyped-def]
        return self.loop.run_until_complete(awaitable)

    @initialize()
    def start(self) -> None:
        self.wait(self.queue.pool.execute("TRUNCATE tasks, lanes, task_attempts, pauses, task_types"))
        self.oracle = Oracle(now=START, lease_s=LEASE_S)
        self.wait(set_clock(self.queue, START))
        self.held: list[tuple[str, Batch]] = []
        self.lanes = 0
        self.numbers = count()
        self.lines: dict[str, Lines] = {}

    @rule(
        priorities=st.lists(st.integers(-1, 1), min_size=1, max_size=5),
        delay=st.sampled_from([0, 0, 0, 5, 60]),
        max_attempts=st.sampled_from([None, None, 1, 3]),
        kind=st.sampled_from(TYPES),
        domain=st.sampled_from(DOMAINS),
        dedup_key=st.sampled_from([None, None, "k", "l"]),
        loaded=st.booleans(),
    )
    def submit(
        self,
        priorities: list[int],
        delay: int,
        max_attempts: int | None,
        kind: str,
        domain: str | None,
        dedup_key: str | None,
        loaded: bool,
    ) -> None:
        due = self.oracle.now + timedelta(seconds=delay)
        tasks = [
            NewTask(
                type=kind,
                domain=domain,
                priority=priority,
                run_after=due,
                max_attempts=max_attempts,
                dedup_key=dedup_key,
                # Not by chance, or a history could not be run again.
                id=uuid5(NAMESPACE_OID, str(next(self.numbers))),
            )
            for priority in priorities
        ]
        if loaded and dedup_key is None:
            assert self.wait(self.queue.load(tasks)) == len(tasks)
            ids = [task.id for task in tasks]
        else:
            ids = self.wait(self.queue.submit(tasks))
        for known_as, task in zip(ids, tasks, strict=True):
            assert task.id is not None
            mine = Task(task.id, kind, domain, due, task.priority, max_attempts, dedup_key)
            assert known_as == self.oracle.added(mine)

    @rule(
        kind=st.sampled_from(["type", "domain"]),
        first=st.booleans(),
        pause=st.sampled_from([True, False, False]),
    )
    def pause_or_resume(self, kind: Literal["type", "domain"], first: bool, pause: bool) -> None:
        name = "d" if kind == "domain" else TYPES[first]
        if pause:
            self.wait(self.queue.pause(kind, name))
            self.oracle.paused.add((kind, name))
        else:
            assert self.wait(self.queue.resume(kind, name)) == ((kind, name) in self.oracle.paused)
            self.oracle.paused.discard((kind, name))

    @rule(kind=st.sampled_from(TYPES), max_attempts=st.integers(1, 2))
    def set_policy(self, kind: str, max_attempts: int) -> None:
        self.wait(self.queue.set_policy(TypePolicy(type=kind, max_attempts=max_attempts)))
        self.oracle.max_attempts[kind] = max_attempts

    @precondition(lambda self: self.oracle.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.oracle.tasks)), unique=True, max_size=3))
        done = self.wait(self.queue.cancel(chosen))
        answers = {task_id: self.oracle.cancel(task_id) for task_id in chosen}
        assert set(done.cancelled) == {i for i, answer in answers.items() if answer == "cancelled"}
        assert set(done.requested) == {i for i, answer in answers.items() if answer == "requested"}
        assert set(done.unchanged) == {i for i, answer in answers.items() if answer is None}

    @rule()
    def register(self) -> None:
        self.lanes += 1
        lane = f"lane-{self.lanes}"
        self.wait(self.queue.register(lane))
        self.oracle.leases[lane] = self.oracle.now + timedelta(seconds=LEASE_S)

    @precondition(lambda self: self.lanes)
    @rule(data=st.data(), limit=st.integers(1, 6))
    def claim(self, data: st.DataObject, limit: int) -> None:
        self.claim_as(f"lane-{data.draw(st.integers(1, self.lanes))}", limit)

    def claim_as(self, lane: str, limit: int) -> None:
        batch = self.wait(self.queue.claim(lane, limit))
        self.oracle.check_claim(lane, limit, [UUID(i) for i in batch.ids])
        self.claimed(lane, batch)

    @precondition(lambda self: self.lanes)
    @rule(data=st.data(), limit=st.integers(1, 4), quota=st.integers(1, 3), everything=st.booleans())
    def claim_along_lines(self, data: st.DataObject, limit: int, quota: int, everything: bool) -> None:
        """With cursors that stay where the last claims of the lane left them."""
        lane = f"lane-{data.draw(st.integers(1, self.lanes))}"
        lines = self.lines.setdefault(lane, Lines(self.queue, lane, clock=self.seconds))
        ready = {task.id: task for task in self.oracle.claimable(lane)}
        if everything:
            self.pass_time(REWIND_S + 1)
            ready = {task.id: task for task in self.oracle.claimable(lane)}
        while len(batch := self.wait(lines.claim(limit, lambda _: quota))):
            assert len(batch) <= limit
            assert all(ready.pop(UUID(task_id), None) for task_id in batch.ids), "claimed what was not ready"
            self.claimed(lane, batch)
            if not everything:
                return
        assert not (everything and ready), "left behind what was ready"

    def claimed(self, lane: str, batch: Batch) -> None:
        for task_id, claim, attempt, suspicion in zip(
            batch.ids, batch.claims, batch.attempts, batch.suspicions, strict=True
        ):
            self.oracle.claimed(lane, UUID(task_id), claim)
            assert attempt == self.oracle.tasks[UUID(task_id)].attempts
            assert suspicion == self.oracle.tasks[UUID(task_id)].suspicion
        if len(batch):
            self.held.append((lane, batch))

    def seconds(self) -> float:
        return (self.oracle.now - START).total_seconds()

    def some_held(self, data: st.DataObject) -> tuple[str, Batch]:
        lane, batch = data.draw(st.sampled_from(self.held))
        chosen = data.draw(st.sets(st.integers(0, len(batch) - 1), min_size=1))
        return lane, batch.take(sorted(chosen))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), cause=st.sampled_from(CAUSES))
    def settle(self, data: st.DataObject, cause: str) -> None:
        lane, batch = self.some_held(data)
        outcomes = Outcomes()
        for position in range(len(batch)):
            outcomes.add(
                position,
                cause,  # type: ignore[arg-type]
                result="{}" if cause == "completed" else None,
                error=None if cause == "completed" else cause,
            )
        settled = self.wait(self.queue.settle(lane, batch, outcomes))
        for task_id, claim in zip(batch.ids, batch.claims, strict=True):
            expected = self.oracle.settle(UUID(task_id), claim, cause)
            assert settled.statuses.get(task_id) == expected
            assert (task_id in settled.stale) == (expected is None)
            if expected == "retry":
                self.adopt_backoff(UUID(task_id))

    def adopt_backoff(self, task_id: UUID) -> None:
        """Jitter is chance: check its bounds and go on from what it was."""
        task = self.oracle.tasks[task_id]
        due = self.wait(self.queue.pool.fetchval("SELECT run_after FROM tasks WHERE id = $1", task_id))
        longest = min(self.queue.backoff_cap_s, self.queue.backoff_base_s * 2 ** (task.attempts - 1))
        assert longest / 2 <= (due - self.oracle.now).total_seconds() <= longest
        task.run_after = due

    @precondition(lambda self: self.held)
    @rule(data=st.data(), suspicion=st.integers(0, 2))
    def release(self, data: st.DataObject, suspicion: int) -> None:
        lane, batch = self.some_held(data)
        released = self.wait(
            self.queue.release(lane, batch, cause="interrupted", error="x", suspicion=suspicion)
        )
        expected = [
            task_id
            for task_id, claim in zip(batch.ids, batch.claims, strict=True)
            if self.oracle.release(UUID(task_id), claim, suspicion=suspicion)
        ]
        assert sorted(released) == sorted(expected)

    @precondition(lambda self: self.lanes)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        lane = f"lane-{data.draw(st.integers(1, self.lanes))}"
        assert (self.wait(self.queue.renew(lane)) is not None) == self.oracle.renew(lane)

    @precondition(lambda self: self.lanes)
    @rule(data=st.data())
    def deregister(self, data: st.DataObject) -> None:
        lane = f"lane-{data.draw(st.integers(1, self.lanes))}"
        self.wait(self.queue.deregister(lane))
        self.oracle.deregister(lane)

    @rule(seconds=st.sampled_from([1, 5, LEASE_S, LEASE_S + 1, 400]))
    def pass_time(self, seconds: float) -> None:
        self.oracle.now += timedelta(seconds=seconds)
        self.wait(set_clock(self.queue, self.oracle.now))

    @rule()
    def reap(self) -> None:
        reaped = self.wait(self.queue.reap())
        assert (reaped.lanes, reaped.retried, reaped.failed) == self.oracle.reap()

    @precondition(lambda self: self.held)
    @rule()
    def take_over(self) -> None:
        """Every lane is lost and another has its tasks: what stale holders are made of."""
        self.pass_time(LEASE_S + 1)
        self.reap()
        self.register()
        self.claim_as(f"lane-{self.lanes}", 6)

    @invariant()
    def same_state(self) -> None:
        if not hasattr(self, "oracle"):
            return
        rows = self.wait(self.queue.pool.fetch("SELECT *, status::text AS s FROM tasks"))
        assert len(rows) == len(self.oracle.tasks), "a task was lost or invented"
        for row in rows:
            task = self.oracle.tasks[row["id"]]
            ours = (task.status, task.attempts, task.claim, task.lane, task.timed_out, task.lease_lost)
            names = ("s", "attempts", "claim", "locked_by", "timed_out", "lease_lost")
            assert tuple(row[name] for name in names) == ours
            assert (row["suspicion"], row["run_after"]) == (task.suspicion, task.run_after)
            assert row["cancel_requested"] == task.cancel_requested
            assert (row["finished_at"] is not None) == (row["s"] in FINISHED)
            assert task.settlements <= 1
        waiting = {
            (t.type, t.priority) for t in self.oracle.tasks.values() if t.status in ("queued", "retry")
        }
        lines = self.wait(self.queue.lines())
        assert {(line.type, line.priority) for line in lines} <= waiting
        ready = {(t.type, t.priority) for t in self.oracle.ready()}
        assert ready == {(line.type, line.priority) for line in lines if line.due_s <= 0}


def run_machine(databases: Any, **options: Any) -> None:
    loop = asyncio.new_event_loop()
    queue = Queue(loop.run_until_complete(databases.create()), lease_s=LEASE_S)
    loop.run_until_complete(queue.__aenter__())

    class Machine(QueueMachine):
        pass

    Machine.queue, Machine.loop = queue, loop
    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), **options
            ),
        )
    finally:
        loop.run_until_complete(queue.close())
        loop.close()


def test_queue_agrees_with_the_oracle(databases: Any) -> None:
    run_machine(databases, max_examples=100)


FENCE = "t.claim = r.claim AND t.status = 'running'"
BROKEN = {
    "completion ignores the claim token": ("complete", FENCE, "t.status = 'running'"),
    "completion accepts a settled task": ("complete", FENCE, "t.claim = r.claim"),
    "settle ignores the claim token": ("settle", FENCE, "t.status = 'running'"),
    "settle accepts a settled task": ("settle", FENCE, "t.claim = r.claim"),
    "release ignores the claim token": ("release", "AND t.claim = r.claim", ""),
    "release charges the attempt": ("release", "attempts = t.attempts - 1", "attempts = t.attempts"),
    "claim reuses the token": ("claim", "claim = nextval('task_claims')", "claim = 1"),
    "claim ignores the lane's lease": ("claim", "AND EXISTS (SELECT FROM lane)", ""),
    "claim takes tasks before they are due": ("claim", "AND run_after <= queue_now()", ""),
    "claim takes the newest first": ("claim", "ORDER BY run_after, id", "ORDER BY run_after DESC, id"),
    "claim ignores a paused type": ("claim", "kind = 'type' AND", "false AND"),
    "claim ignores a paused domain": ("claim", "WHERE kind = 'domain'", "WHERE false"),
    "a line is overlooked": ("lines", "(type, priority) > (line.type, line.priority)", "type > line.type"),
    "retries are without end": (
        "settle",
        "OR t.attempts >= coalesce(t.max_attempts, policy.max_attempts, $8)",
        "",
    ),
    "the policy of a type is ignored": ("settle", "policy.max_attempts,", ""),
    "permanent errors are retried": ("settle", "WHEN r.cause = 'rejected' OR", "WHEN"),
    "a cancelled task is retried": ("settle", "OR t.cancel_requested", ""),
    "cancel ends a running task": (
        "cancel",
        "WHEN chosen.status = 'running' THEN 'running' ",
        "WHEN false THEN NULL ",
    ),
    "a duplicate is added": ("submit", "t.dedup_key", "t.dedup_key || random()"),
    "reap takes live lanes' tasks": ("reap", "lease_until < queue_now()", "true"),
    "reap charges the attempt": ("reap", "greatest(t.attempts - 1, 0)", "t.attempts"),
    "reap forgets what a closed lane held": (
        "reap",
        "JOIN tasks t ON t.locked_by = dead.id",
        "JOIN tasks t ON false",
    ),
    "renew revives a reaped lane": ("renew", "AND lease_until > 'epoch'", ""),
}
"""Ways to break a promise by one edit of a statement. The machine must notice every one of them."""


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_queue_is_noticed(databases: Any, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    name, right, wrong = BROKEN[how]
    text = statement(name)
    assert right in text, "the statement has changed: break it in another way"
    for module in ("queue", "lines", "control", "submission"):
        monkeypatch.setattr(
            f"blocks.queue.{module}.statement",
            lambda n: text.replace(right, wrong) if n == name else statement(n),
        )
    with pytest.raises(Exception):  # noqa: B017, PT011  # an assertion of the machine, or Postgres itself
        run_machine(databases, max_examples=400, phases=[Phase.generate], database=None)
