"""Random histories of the real queue, step by step beside its oracle.

Time is the database's and stands still between rules, so even the order of claims is decided. There are few
types, priorities and keys, and most rules end where something can go wrong: every settlement is sent twice,
whoever lost a task writes about it, a pause comes behind the back of a lane that has just looked.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any, Literal, TypeVar
from uuid import NAMESPACE_OID, UUID, uuid5

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from organism_flows.blocks.errors import EventRefused
from organism_flows.blocks.queue import (
    Batch,
    ClaimLines,
    Limit,
    NewTask,
    Outcomes,
    Queue,
    RedriveFilter,
    TypePolicy,
)
from organism_flows.blocks.queue.models.streams import StreamChunk, StreamPlace
from organism_flows.blocks.queue.stores.claiming.claim_lines import LINES_AT_ONCE
from organism_flows.blocks.queue.stores.claiming.line_pages import lines_of
from organism_flows.blocks.snooze import Snooze
from organism_flows.blocks.task_report import Chunks, TaskReport
from tests.support.clock import START, set_clock
from tests.support.oracle import FINISHED, FOREVER, Oracle, Task
from tests.support.sql import database_of, pool_of

T = TypeVar("T")
LEASE_S = 15.0
BACKOFF_BASE_S = 1.0
BACKOFF_CAP_S = 300.0
REWIND_S = 1.0
"""After so long every task that is ready must be found, wherever it came into line."""
CAUSES = ("completed", "failed", "rejected", "timed_out", "cancelled")
TYPES = ("t", "u")
EVENTS = ("x", "y")
ENOUGH = 100
CLEAN = "; ".join(
    f"DELETE FROM {table}"
    for table in (
        *("tasks", "lanes", "pauses", "closures", "task_types", "task_audit"),
        *("limits", "limit_levels", "limit_spending", "key_weights"),
    )
)
LIMITS = (
    Limit(name="each", kind="running", by_key=True, amount=2, exceptions={"b": 1}),
    Limit(name="together", kind="running", types=["t"], amount=3),
    Limit(name="begin", kind="rate", by_key=True, amount=3, period_s=10, burst=2),
    Limit(name="spend", kind="cost", amount=9, period_s=60),
)
KEYS = (None, "a", "b")
SHARED = 2
"""Priority of tasks that are there to be shared out."""

types = st.sampled_from(TYPES)
priorities = st.lists(st.integers(0, 1), min_size=1, max_size=4)


CAUSES_OF_RELEASE = ("interrupted", "replica_lost", None)


class QueueMachine(RuleBasedStateMachine):
    """One queue, some lanes, and every held claim kept for ever so that stale ones are used too."""

    queue: Queue
    loop: asyncio.AbstractEventLoop
    limited: bool
    """True: there are limits from the start."""

    def wait(self, awaitable: Awaitable[T]) -> T:
        return self.loop.run_until_complete(awaitable)

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.wait(pool_of(self.queue).execute(CLEAN))
        self.wait(pool_of(self.queue).execute("SELECT setseed(0.5)"))
        self.wait(set_clock(self.queue, START))
        self.oracle = Oracle(now=START, lease_s=LEASE_S)
        self.held: list[tuple[str, Batch]] = []
        self.lanes: list[str] = []
        self.lines: dict[str, ClaimLines] = {}
        self.numbers = count()
        self.emitted: dict[int, Chunks] = {}
        """Last chunks of each claim, as a lane keeps them."""
        self.register()
        if self.limited:
            for place in data.draw(st.sets(st.integers(0, len(LIMITS) - 1), min_size=1, max_size=2)):
                self.set_limit(LIMITS[place])
        for kind in TYPES:
            self.add(kind, data.draw(priorities))
            self.add(kind, [0], delay=-1)
            self.add(kind, [0], delay=30)

    # Adding

    @rule(
        kind=types,
        priorities=priorities,
        delay=st.sampled_from([0, 0, 5]),
        max_attempts=st.sampled_from([None, None, 1, 3]),
        domain=st.sampled_from([None, "d"]),
        key=st.sampled_from(KEYS),
        cost=st.sampled_from([None, 0, 4]),
        dedup_key=st.sampled_from([None, "k"]),
        loaded=st.booleans(),
        expires_s=st.sampled_from([None, None, 8]),
    )
    def add(
        self,
        kind: str,
        priorities: list[int],
        delay: int = 0,
        loaded: bool = False,
        expires_s: int | None = None,
        **fields: Any,
    ) -> None:
        due = self.oracle.now + timedelta(seconds=delay)
        if expires_s is not None:
            fields["expires_at"] = self.oracle.now + timedelta(seconds=expires_s)
        tasks = [
            # An id not by chance, or a history could not be run again.
            NewTask(
                type=kind,
                priority=p,
                run_after=due,
                id=uuid5(NAMESPACE_OID, str(next(self.numbers))),
                **fields,
            )
            for p in priorities
        ]
        if loaded and not fields.get("dedup_key"):
            assert self.wait(self.queue.producer.load(tasks)) == len(tasks)
            ids: Sequence[UUID | None] = [task.id for task in tasks]
        else:
            ids = self.wait(self.queue.submit(tasks))
        for known_as, task in zip(ids, tasks, strict=True):
            assert known_as == self.oracle.added(Task.of(task))

    # Claiming

    def some_lane(self, data: st.DataObject) -> str:
        """One with a lease, if need be a new one."""
        if not (live := [lane for lane, until in self.oracle.leases.items() if until > self.oracle.now]):
            self.register()
            live = self.lanes
        return data.draw(st.sampled_from(live[-2:]))

    @rule(data=st.data(), limit=st.integers(1, 3))
    def claim(self, data: st.DataObject, limit: int) -> None:
        lane = data.draw(st.sampled_from(self.lanes[-2:]))
        ready = self.oracle.claimable(lane)
        batch = self.wait(self.queue.claims.claim(lane, limit))
        self.claimed(lane, batch)
        self.oracle.check_claim(lane, limit, ready, [UUID(i) for i in batch.ids])

    def claim_along(self, lane: str, limit: int = ENOUGH, quota: int = ENOUGH, *, look: bool = False) -> bool:
        """One claim with cursors that stay where the last claims of the lane left them."""
        if lane not in self.lines:
            holding = partial(self.oracle.holding, lane)
            self.lines[lane] = self.queue.claims.lines(lane, clock=self.seconds, holding=holding)
        lines = self.lines[lane]
        if look:
            self.wait(lines.scan())
        ready = {task.id for task in self.oracle.claimable(lane)}
        batch = self.wait(lines.claim(limit, lambda _: quota))
        assert len(batch) <= limit
        of_a_line = Counter(self.oracle.tasks[UUID(i)].line for i in batch.ids)
        assert max(of_a_line.values(), default=0) <= quota
        assert {UUID(i) for i in batch.ids} <= ready, "claimed what must not be claimed"
        self.claimed(lane, batch)
        return len(batch) > 0

    @rule(data=st.data(), limit=st.integers(1, 4), quota=st.integers(1, 3), back=st.booleans())
    def claim_everything(self, data: st.DataObject, limit: int, quota: int, back: bool) -> None:
        """After some of it has come back into line, behind the lane's cursors."""
        lane = self.some_lane(data)
        if self.claim_along(lane, look=True) and back:
            self.release_as(*self.held[-1])
        self.pass_time(REWIND_S + 1)
        self.claim_along(lane, limit, quota, look=True)
        while self.claim_along(lane, limit, quota):
            pass
        assert not self.oracle.left_behind(lane), "left behind what is ready"

    @rule(data=st.data(), kind=types, late_s=st.integers(0, 1))
    def add_late(self, data: st.DataObject, kind: str, late_s: int) -> None:
        """A task comes into line before the last that was claimed: its transaction took so long."""
        self.pass_time(REWIND_S + 1)
        lane = self.some_lane(data)
        self.add(kind, [0])
        self.claim_along(lane, look=True)
        self.add(kind, [0], delay=-late_s)
        # With limits, an empty line that is asked first may take the last room until the next look.
        limited = bool(self.oracle.limits.limits)
        while self.claim_along(lane, look=limited) and limited:
            pass  # what a limit does not let a line have is for the others in the next claim
        assert not self.oracle.left_behind(lane), "left behind what came late"

    @rule(
        data=st.data(), kind=st.sampled_from(["type", "domain"]), pause=st.booleans(), quota=st.integers(1, 2)
    )
    def pause_or_resume(
        self, data: st.DataObject, kind: Literal["type", "domain"], pause: bool, quota: int
    ) -> None:
        """Behind the back of a lane that has just looked and goes on claiming."""
        name = "d" if kind == "domain" else data.draw(types)
        lane = self.some_lane(data)
        self.pass_time(REWIND_S + 1)
        self.add(data.draw(types), [1, 1, 1], domain="d")
        self.claim_along(lane, quota=quota, look=True)
        if pause:
            self.wait(self.queue.operator.pause(kind, name))
            self.oracle.paused.add((kind, name))
        else:
            assert self.wait(self.queue.operator.resume(kind, name)) == ((kind, name) in self.oracle.paused)
            self.oracle.paused.discard((kind, name))
        self.claim_along(lane, quota=quota)

    def claimed(self, lane: str, batch: Batch) -> None:
        for task_id, claim, attempt, suspicion, reclaimed in zip(
            batch.ids, batch.claims, batch.attempts, batch.suspicions, batch.reclaimed, strict=True
        ):
            self.oracle.claimed(lane, UUID(task_id), claim)
            task = self.oracle.tasks[UUID(task_id)]
            assert (attempt, suspicion) == (task.attempts, task.suspicion)
            assert reclaimed == any((task.interrupted, task.lease_lost, task.suspicion))
            assert batch.waits.get(claim) == self.oracle.ended_wait(task)
        self.oracle.check_limits([UUID(i) for i in batch.ids])
        if len(batch):
            # Postgres gives them as they lie on its pages, which is not the history's doing.
            in_order = sorted(range(len(batch)), key=batch.ids.__getitem__)
            self.held.append((lane, batch.take(in_order)))

    @rule(
        data=st.data(),
        kind=types,
        max_attempts=st.integers(1, 2),
        max_interruptions=st.none() | st.integers(1, 3),
        max_snoozes=st.none() | st.integers(1, 2),
    )
    def set_policy(
        self,
        data: st.DataObject,
        kind: str,
        max_attempts: int,
        max_interruptions: int | None,
        max_snoozes: int | None,
    ) -> None:
        """For what waits and runs already, too."""
        self.claim_along(self.some_lane(data), look=True)
        policy = TypePolicy(
            type=kind,
            max_attempts=max_attempts,
            max_interruptions=max_interruptions,
            max_snoozes=max_snoozes,
        )
        self.wait(self.queue.operator.set_policy(policy))
        self.oracle.max_attempts[kind] = max_attempts
        self.oracle.max_interruptions[kind] = max_interruptions
        self.oracle.max_snoozes[kind] = max_snoozes
        if self.held:
            lane, batch = self.held[-1]
            self.settle_as(lane, batch, ["failed"] * len(batch))

    # Limits and shares

    def set_limit(self, limit: Limit) -> None:
        """Lanes read it with their next scan, a second or two later."""
        self.wait(self.queue.operator.set_limit(limit))
        self.oracle.limits.set(limit)
        for lines in self.lines.values():
            self.wait(lines.scan())

    @precondition(lambda self: self.limited)
    @rule(data=st.data(), limit=st.sampled_from(LIMITS[:3]))
    def set_or_remove_limit(self, data: st.DataObject, limit: Limit) -> None:
        """While tasks that count against it run; what runs goes on."""
        self.claim_along(self.some_lane(data), look=True)
        if limit.name in self.oracle.limits.limits:
            assert self.wait(self.queue.operator.remove_limit(limit.name))
            self.oracle.limits.remove(limit.name)
        else:
            self.set_limit(limit)

    @precondition(lambda self: self.limited)
    @rule(
        data=st.data(),
        key=st.sampled_from(KEYS),
        cost=st.sampled_from([None, 4]),
        seconds=st.sampled_from([1, 3, 9, 10, 59, 60, 62]),
        settled=st.booleans(),
    )
    def come_to_a_limit(
        self, data: st.DataObject, key: str | None, cost: float | None, seconds: float, settled: bool
    ) -> None:
        """One key has more than its limits allow, now and some time later."""
        lane = self.some_lane(data)
        self.add("t", [1, 1, 1, 1], key=key, cost=cost)
        self.claim_all(lane)
        if settled and self.held:
            self.settle_as(*self.held[-1], ["completed"] * ENOUGH)
        self.pass_time(max(seconds - REWIND_S - 1, 0))
        self.renew_as(lane)
        self.claim_all(lane)

    def claim_all(self, lane: str) -> None:
        # What has come back behind the lane's cursors is found when they return.
        self.pass_time(REWIND_S + 1)
        if self.oracle.leases.get(lane, self.oracle.now) > self.oracle.now:
            while self.claim_along(lane, look=True):
                pass
            assert not self.oracle.left_behind(lane), "something waits, and there is room for it"

    @precondition(lambda self: self.held)
    @rule(data=st.data(), units=st.sampled_from([0, 1, 6]))
    def spend(self, data: st.DataObject, units: float) -> None:
        """Twice: the answer to the first may be lost."""
        lane, batch = self.some_held(data)
        for _ in range(2):
            self.settle_as(lane, batch, ["completed"] * len(batch), spent=units)

    @rule(data=st.data(), weight=st.integers(1, 3), limit=st.integers(1, 4))
    def share(self, data: st.DataObject, weight: int, limit: int) -> None:
        """Some keys have work throughout, and claims are smaller than what there is."""
        self.wait(self.queue.operator.set_weight("a", weight))
        self.oracle.limits.weights["a"] = weight
        # What is added right behind the lane's cursors is found when they return.
        self.pass_time(REWIND_S + 1)
        lane = self.some_lane(data)
        for key in KEYS:
            self.add("t", [SHARED] * 6, key=key)
        taken = dict.fromkeys(KEYS, 0)
        look = True
        while self.have_work(lane):
            assert self.claim_along(lane, limit, look=look), "nothing is claimed of what there is room for"
            look = False
            for task_id in self.held[-1][1].ids:
                task = self.oracle.tasks[UUID(task_id)]
                # What a limit keeps a key from goes to lower priorities first, then to its neighbours.
                if task.line[:2] == ("t", SHARED):
                    taken[task.key] += 1
            self.oracle.limits.check_shares({key or "": tasks for key, tasks in taken.items()})

    def have_work(self, lane: str) -> bool:
        """Whether each key has some tasks that are there to be shared out, and there is room for them."""
        left = {task.line: task for task in self.oracle.left_behind(lane)}
        waiting = Counter(t.line for t in self.oracle.claimable(lane))
        lines = [("t", SHARED, "", key or "") for key in KEYS]
        return all(line in left and waiting[line] >= 4 for line in lines)

    # Reporting

    def some_held(self, data: st.DataObject) -> tuple[str, Batch]:
        current = [(lane, batch) for lane, batch in self.held if self.oracle.holds_some(batch.claims)]
        lane, batch = data.draw(st.sampled_from([*self.held[-2:], *current[-2:]]))
        chosen = data.draw(st.sets(st.integers(0, len(batch) - 1), min_size=1))
        return lane, batch.take(sorted(chosen))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Twice: the answer to the first may be lost."""
        lane, batch = self.some_held(data)
        self.settle_as(lane, batch, data.draw(st.lists(st.sampled_from(CAUSES), min_size=len(batch))))
        self.settle_as(lane, batch, data.draw(st.lists(st.sampled_from(CAUSES), min_size=len(batch))))

    def settle_as(self, lane: str, batch: Batch, causes: Sequence[Any], spent: float | None = None) -> None:
        outcomes = Outcomes()
        for position, cause in zip(range(len(batch)), causes, strict=False):
            done = cause == "completed"
            result, error = ("{}", None) if done else (None, cause)
            outcomes.add(position, cause, result=result, error=error, spent=spent)
        settled = self.wait(self.queue.claims.settle(lane, batch, outcomes))
        for task_id, claim, cause in zip(batch.ids, batch.claims, outcomes.causes, strict=True):
            expected = self.oracle.settle(UUID(task_id), claim, cause, spent)
            assert settled.statuses.get(task_id) == expected
            assert (task_id in settled.stale) == (expected is None)
            if expected == "retry":
                self.adopt_backoff(UUID(task_id))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), number=st.integers(1, 2))
    def emit(self, data: st.DataObject, number: int) -> None:
        """Each statement twice: the answer to the first may be lost."""
        _, batch = self.some_held(data)
        reports, expected = [], set()
        for position, (task_id, claim) in enumerate(zip(batch.ids, batch.claims, strict=True)):
            texts = [str(next(self.numbers)) for _ in range(number)]
            chunks = Chunks(texts).numbered(self.emitted.get(claim))
            self.emitted[claim] = chunks
            reports.append(TaskReport(position, chunks=chunks))
            if self.oracle.emit(UUID(task_id), claim, texts):
                expected.add(claim)
        for _ in range(2):
            assert set(self.wait(self.queue.reports.record(batch, reports)).further) == expected
        self.same_streams(begin_anywhere=number)

    def same_streams(self, begin_anywhere: int) -> None:
        """Every reader sees the chunks of the newest claim, from the start or from where it was."""
        places = [StreamPlace(task_id) for task_id in self.oracle.tasks]
        places += [StreamPlace(t.id, t.claim, begin_anywhere) for t in self.oracle.tasks.values()]
        for place, part in self.wait(self.queue.reader.streams(places)).items():
            seen = [event.text for event in part.events(place) if isinstance(event, StreamChunk)]
            assert seen == self.oracle.tasks[place.task_id].chunks[place.number :]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), after_s=st.sampled_from([0, 3, LEASE_S - 1]), closes=st.booleans())
    def snooze(self, data: st.DataObject, after_s: float, closes: bool) -> None:
        """Twice, and its neighbours in line may be claimed then, or not before it is open."""
        lane, batch = self.some_held(data)
        text = Snooze(after_s=after_s, closes="key" if closes else None).to_json()
        outcomes = Outcomes()
        for position in range(len(batch)):
            outcomes.add(position, "snoozed", result=text, error="busy")
        for _ in range(2):
            settled = self.wait(self.queue.claims.settle(lane, batch, outcomes))
            for task_id, claim in zip(batch.ids, batch.claims, strict=True):
                expected = self.oracle.snooze(UUID(task_id), claim, after_s, closes=closes)
                assert settled.statuses.get(task_id) == expected
        self.claim_along(self.some_lane(data))

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        event=st.sampled_from(EVENTS),
        after_s=st.sampled_from([None, 3]),
        when=st.sampled_from(["before", "after", "late", "never"]),
        again=st.booleans(),
    )
    def wait_for_event(
        self, data: st.DataObject, event: str, after_s: float | None, when: str, again: bool
    ) -> None:
        """The event comes before the wait, after it, or when its time is over and the task runs again."""
        lane, batch = self.some_held(data)
        if when == "before":
            self.send_events(batch, event)
        self.wait_as(lane, batch, event, after_s)
        if when == "late":
            self.pass_time(3)
            self.claim_along(self.some_lane(data), look=True)
        if when in ("after", "late"):
            self.send_events(batch, event)
        if self.claim_along(self.some_lane(data), look=True) and again:
            self.wait_as(*self.held[-1], event, after_s)

    def wait_as(self, lane: str, batch: Batch, event: str, after_s: float | None) -> None:
        """Twice: the answer to the first may be lost."""
        outcomes = Outcomes()
        for position in range(len(batch)):
            text = Snooze(after_s=after_s, event=event).to_json()
            outcomes.add(position, "snoozed", result=text, error="waits")
        for _ in range(2):
            settled = self.wait(self.queue.claims.settle(lane, batch, outcomes))
            for task_id, claim in zip(batch.ids, batch.claims, strict=True):
                expected = self.oracle.wait(UUID(task_id), claim, event, after_s)
                assert settled.statuses.get(task_id) == expected

    def send_events(self, batch: Batch, event: str) -> None:
        """Twice, with another payload."""
        for task_id in map(UUID, batch.ids):
            for payload in ("1", "2") if task_id in self.oracle.tasks else ():
                try:
                    effect: str | None = self.wait(
                        self.queue.producer.send_event(task_id, event, int(payload))
                    )
                except EventRefused:
                    effect = None
                assert effect == self.oracle.send_event(task_id, event, payload)

    def adopt_backoff(self, task_id: UUID) -> None:
        """Jitter is chance: check its bounds and go on from what it was."""
        task = self.oracle.tasks[task_id]
        due = self.wait(pool_of(self.queue).fetchval("SELECT run_after FROM tasks WHERE id = $1", task_id))
        longest = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** (task.attempts - 1))
        assert longest / 2 <= (due - self.oracle.now).total_seconds() <= longest
        task.run_after = due

    @precondition(lambda self: self.held)
    @rule(data=st.data(), suspicion=st.integers(0, 2), cause=st.sampled_from(CAUSES_OF_RELEASE))
    def release(self, data: st.DataObject, suspicion: int, cause: str | None) -> None:
        lane, batch = self.some_held(data)
        self.release_as(lane, batch, suspicion, cause)
        self.release_as(lane, batch, suspicion, cause)

    def release_as(
        self, lane: str, batch: Batch, suspicion: int = 0, cause: str | None = "interrupted"
    ) -> None:
        released = self.wait(
            self.queue.claims.release(lane, batch, cause=cause, error="x", suspicion=suspicion)
        )
        interrupted = cause == "interrupted"
        expected = {
            i: self.oracle.tasks[UUID(i)].status
            for i, claim in zip(batch.ids, batch.claims, strict=True)
            if self.oracle.release(UUID(i), claim, suspicion=suspicion, interrupted=interrupted)
        }
        assert released == expected

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release_unanswered(self, data: st.DataObject) -> None:
        """A lane knows of some of what it holds."""
        lane, batch = self.some_held(data)
        released = self.wait(self.queue.claims.release_unanswered(lane, holding=batch.claims))
        assert {UUID(i) for i in released} == self.oracle.release_unanswered(lane, batch.claims)

    @precondition(lambda self: self.oracle.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """What waits, runs or has ended; what runs is perhaps reported then."""
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.oracle.tasks)), unique=True, max_size=2))
        lane, batch = self.some_held(data) if self.held else ("", Batch())
        chosen += [i for i in map(UUID, batch.ids) if i not in chosen]
        done = self.wait(self.queue.operator.cancel(chosen))
        answers = {task_id: self.oracle.cancel(task_id) for task_id in chosen}
        assert set(done.cancelled) == {i for i, answer in answers.items() if answer == "cancelled"}
        assert set(done.requested) == {i for i, answer in answers.items() if answer == "requested"}
        assert set(done.unchanged) == {i for i, answer in answers.items() if answer is None}
        assert sorted(self.wait(self.queue.claims.cancel_requests(lane))) == self.oracle.cancel_requests(lane)
        match data.draw(st.sampled_from(["failed", "released", "neither"])):
            case "failed":
                self.settle_as(lane, batch, ["failed"] * len(batch))
            case "released":
                self.release_as(lane, batch)

    # Upkeep

    @rule(
        kind=st.sampled_from([None, "t"]),
        young=st.booleans(),
        cancelled=st.booleans(),
        limit=st.sampled_from([None, None, 1, 2]),
        page=st.sampled_from([1, 2000]),
    )
    def redrive(
        self,
        kind: str | None,
        young: bool = False,
        cancelled: bool = True,
        limit: int | None = None,
        page: int = 1,
    ) -> None:
        since = self.oracle.now - timedelta(seconds=LEASE_S) if young else None
        wanted = RedriveFilter(type=kind, since=since, cancelled=cancelled)
        done = self.wait(self.queue.operator.redrive(wanted, actor="machine", limit=limit, page=page))
        expected = self.oracle.redrive(type=kind, since=since, cancelled=cancelled, limit=limit)
        assert done.redriven == expected[0]
        assert limit is not None or done.kept_out == expected[1]
        audited = "SELECT tasks FROM task_audit WHERE id = $1"
        assert self.wait(pool_of(self.queue).fetchval(audited, done.audit)) == done.redriven
        history = "SELECT task_id, count(*) FROM task_attempts WHERE cause = 'redriven' GROUP BY 1"
        counted = {row["task_id"]: row["count"] for row in self.wait(pool_of(self.queue).fetch(history))}
        assert counted == {t.id: t.redriven for t in self.oracle.tasks.values() if t.redriven}

    @precondition(lambda self: self.held)
    @rule(data=st.data(), cause=st.sampled_from(["rejected", "cancelled"]), again=st.booleans())
    def redrive_what_ended(self, data: st.DataObject, cause: str, again: bool) -> None:
        """The holder whose report ended it writes once more, before and after it is claimed again."""
        lane, batch = self.some_held(data)
        self.settle_as(lane, batch, [cause] * len(batch))
        self.redrive(None)
        self.settle_as(lane, batch, ["completed"] * len(batch))
        if again:
            self.claim_along(self.some_lane(data), look=True)
            self.settle_as(lane, batch, ["completed"] * len(batch))
            self.release_as(lane, batch)

    @rule(data=st.data(), kind=types)
    def redrive_beside_its_duplicate(self, data: st.DataObject, kind: str) -> None:
        """A task with a key is dead, and another with that key was added since."""
        self.add(kind, [0], dedup_key="k")
        if self.claim_along(self.some_lane(data), look=True):
            lane, batch = self.held[-1]
            self.settle_as(lane, batch, ["rejected"] * len(batch))
        self.add(kind, [0], dedup_key="k")
        self.redrive(None)

    @rule(status=st.sampled_from(FINISHED), page=st.sampled_from([1, 1000]))
    def prune(self, status: Any, page: int) -> None:
        pruned = self.wait(self.queue.maintenance.prune(status, older_than_s=LEASE_S, page=page))
        assert pruned == self.oracle.prune(status, older_than_s=LEASE_S)

    # Lanes

    @rule()
    def register(self) -> None:
        lane = f"lane-{len(self.lanes)}"
        self.wait(self.queue.leases.register(lane))
        self.oracle.leases[lane] = self.oracle.now + timedelta(seconds=LEASE_S)
        self.lanes.append(lane)

    def renew_as(self, lane: str) -> None:
        assert (self.wait(self.queue.leases.renew(lane)) is not None) == self.oracle.renew(lane)

    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        self.renew_as(self.some_lane(data))

    @rule(data=st.data(), reap=st.booleans())
    def deregister(self, data: st.DataObject, reap: bool) -> None:
        """It has left for good: it cannot renew, and a reap takes what it held."""
        lane = self.some_lane(data)
        self.wait(self.queue.leases.deregister(lane))
        self.oracle.deregister(lane)
        self.renew_as(lane)
        if reap:
            self.reap()

    @rule(seconds=st.sampled_from([1, LEASE_S, LEASE_S + 1, 400]))
    def pass_time(self, seconds: float) -> None:
        self.oracle.now += timedelta(seconds=seconds)
        self.wait(set_clock(self.queue, self.oracle.now))

    def seconds(self) -> float:
        return (self.oracle.now - START).total_seconds()

    @rule()
    def reap(self) -> None:
        reaped = self.wait(self.queue.leases.reap())
        assert (reaped.lanes, reaped.retried, reaped.failed) == self.oracle.reap()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def take_over(self, data: st.DataObject) -> None:
        """A lane falls silent, another has its tasks, and then it writes after all."""
        lane, batch = self.held[-1]
        self.pass_time(LEASE_S + 1)
        self.reap()
        self.register()
        self.claim_along(self.lanes[-1], look=True)
        self.renew_as(lane)
        match data.draw(st.sampled_from(["completed", "failed", "released"])):
            case "released":
                self.release_as(lane, batch)
            case cause:
                self.settle_as(lane, batch, [cause] * len(batch))

    @rule(page=st.sampled_from([1, 1000]))
    def expire(self, page: int) -> None:
        assert self.wait(self.queue.maintenance.expire(page=page)) == self.oracle.expire()

    @rule(data=st.data(), kind=types, swept=st.booleans())
    def come_too_late(self, data: st.DataObject, kind: str, swept: bool) -> None:
        """One waits and one is held when both expire."""
        self.claim_along(self.some_lane(data), look=True)
        self.add(kind, [0], expires_s=2)
        self.claim_along(self.some_lane(data), look=True)
        self.add(kind, [0], expires_s=2)
        self.pass_time(2)
        if swept:
            self.expire(1000)
        self.claim_along(self.some_lane(data), look=True)

    @invariant()
    def same_state(self) -> None:
        rows = self.wait(pool_of(self.queue).fetch("SELECT *, status::text AS s FROM tasks"))
        assert {row["id"] for row in rows} == set(self.oracle.tasks), "a task was lost or invented"
        for row in rows:
            task = self.oracle.tasks[row["id"]]
            names = ("attempts", "claim", "timed_out", "lease_lost", "interrupted", "snoozed")
            assert (row["s"], row["locked_by"]) == (task.status, task.lane)
            assert [row[name] for name in names] == [getattr(task, name) for name in names]
            due = row["run_after"] if row["run_after"].tzinfo else FOREVER
            assert (row["suspicion"], due) == (task.suspicion, task.run_after)
            if task.status == "queued":
                assert row["waits_for"] == task.waits_for
            assert row["cancel_requested"] == task.cancel_requested
            assert (row["finished_at"] is not None) == (row["s"] in FINISHED)
            assert task.settlements <= 1
        lines = self.wait(lines_of(database_of(self.queue), LINES_AT_ONCE))
        ready = {task.line for task in self.oracle.ready()}
        assert {line.id for line in lines if line.due_s <= 0} == ready


def run_machine(dsn: str, *, steps: int, limited: bool = False, **options: Any) -> None:
    """Compare random histories on a database of their own; raises what the first wrong one raised.

    Args:
        steps: Of each history.
        limited: There are limits from the start.
    """
    with asyncio.Runner() as runner:
        # On one connection, whose chance begins anew with each history: jitter decides what is due, and a
        # history that is run again must be the same.
        queue = Queue(
            dsn,
            lease_s=LEASE_S,
            backoff_base_s=BACKOFF_BASE_S,
            backoff_cap_s=BACKOFF_CAP_S,
            connections=1,
        )
        runner.run(queue.__aenter__())
        try:
            run_state_machine_as_test(
                type(
                    "Machine",
                    (QueueMachine,),
                    {"queue": queue, "loop": runner.get_loop(), "limited": limited},
                ),
                settings=settings(
                    stateful_step_count=steps,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    **options,
                ),
            )
        finally:
            runner.run(queue.close())
