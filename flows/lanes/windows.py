"""How many tasks a lane takes of each type, and how many of them one call carries.

A type's window, the tasks of it in flight, follows the time they take, as TCP Vegas sizes its window: while
tasks come back about as soon as their handlers end, the window grows; once they wait somewhere on the way,
for a handler, a replica or a settlement, it shrinks to what is being worked off. So a lane keeps every
replica busy with quick tasks, holds no more slow ones than are run, and hoards nothing behind its lease.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from organism_flows.blocks.queue import Batch, Outcomes
from organism_flows.blocks.queue.wire import HANDED_BACK

FIRST_WINDOW = 32
SLACK_S = 0.15
"""What a task may take beyond its handler's own time: a call, its outcomes' way back and their settlement
take 15 to 40 ms under full load, so this keeps the way full and no more."""
CALL_S = 0.05
"""About how long one call should last: long enough to make up for what a call costs, about 1 ms, and short
enough that replicas share the work."""
CALLS_A_WINDOW = 4
"""A window is at least so many calls: while one is settled others run."""
GROWTH = 4.0
PROBE = 1.25
"""A window that was full and whose tasks hardly waited grows at least by this: it may be the limit itself."""
BYTES_IN_FLIGHT = 64_000_000
"""Most params of one type in flight, in characters."""
BYTES_A_CALL = 8_000_000
HOLD_S = (2.0, 10.0)
"""After tasks waited for too long, no more of their type are tried for this many seconds; doubled each time,
up to the second figure. Serve chooses the replica, and only one may have a free slot: with 120 s, one of
eight tasks of 20 min waited for 12 min while a slot was free. A try that fails costs a claim and its
return."""


@dataclass(slots=True)
class Window:
    """The tasks of one type in flight."""

    size: float = FIRST_WINDOW
    in_flight: int = 0
    latency_s: float = SLACK_S
    """From claim to settlement, moving average."""
    bytes: float = 0.0
    """Of params a task, moving average."""
    held_until: float = 0.0
    """Does not grow before this moment of `time.monotonic`."""
    hold_s: float = HOLD_S[0]
    ended_at: float = 0.0
    """When a task of the type last ended, by `time.monotonic`."""
    widened: bool = False
    """The last thing that happened to it was `Windows.widen`."""

    def call_size(self, limit: int) -> int:
        """Tasks one call should carry: about as many as are settled in `CALL_S`."""
        rate = self.size / self.latency_s
        return max(1, min(limit, int(rate * CALL_S), int(self.size / CALLS_A_WINDOW)))

    @property
    def full(self) -> bool:
        """Whether about as many tasks are in flight as may be: only then can it be too small."""
        return self.in_flight >= 0.75 * int(self.size)

    def adjust(self, call: CallRecord, limit: float) -> None:
        """Learn from a call that settled tasks, and let the window be ``limit`` at most."""
        latency_s, service_s = call.latency_s / call.settled, call.service_s / call.settled
        # A call changes the window by its share of it, so that a window's worth of tasks changes it once. Of
        # the window it began in: those of one window end together, and the first has changed it already.
        weight = min(1.0, call.settled / call.window)
        self.latency_s += weight * (latency_s - self.latency_s)
        ratio = (service_s + SLACK_S) / latency_s
        if latency_s - service_s < SLACK_S / 2:
            ratio = max(ratio, PROBE)
        if ratio < 1 or call.full:
            self.size *= min(GROWTH, max(ratio, 1 / GROWTH)) ** weight
        if self.bytes:
            limit = min(limit, BYTES_IN_FLIGHT / self.bytes)
        self.size = min(max(self.size, 1.0), max(limit, 1.0))


@dataclass(slots=True)
class CallRecord:
    """How long the tasks of one call took, and in what window."""

    type: str
    window: float
    """Size of the window when it began."""
    full: bool
    """The window was full then."""
    started: float = field(default_factory=time.monotonic)
    settled: int = 0
    """Tasks."""
    latency_s: float = 0.0
    """From claim to settlement, their sum."""
    service_s: float = 0.0
    """In the handler, their sum."""

    def add(self, outcomes: Outcomes) -> bool:
        """Count in outcomes that have just come; those of tasks that were handed back say nothing of pace.

        Returns:
            Whether there were others.
        """
        if not set(HANDED_BACK).isdisjoint(outcomes.causes):
            outcomes = outcomes.take(n for n, cause in enumerate(outcomes.causes) if cause not in HANDED_BACK)
        self.settled += len(outcomes)
        self.latency_s += len(outcomes) * (time.monotonic() - self.started)
        self.service_s += sum(outcomes.elapsed_ms) / 1000
        return len(outcomes) > 0


class Windows:
    """The windows of one lane.

    Args:
        batch_size: Most tasks in one call.
        tasks_in_flight: Most tasks in flight, all types together.
    """

    def __init__(self, batch_size: int, tasks_in_flight: int) -> None:
        self._batch_size = batch_size
        self._limit = tasks_in_flight
        self._windows: dict[str, Window] = {}
        self.in_flight = 0
        """Tasks in flight, all types together."""

    @property
    def left(self) -> int:
        """Tasks that may be claimed now, all types together."""
        return self._limit - self.in_flight

    def room(self, task_type: str) -> int:
        """Tasks of a type that may be claimed now: none, or enough for a call of the right size."""
        window = self.window(task_type)
        if not window.in_flight and time.monotonic() < window.held_until:
            return 0
        room = int(window.size) - window.in_flight
        enough = not window.in_flight or room >= window.call_size(self._batch_size)
        return room if enough else 0

    def window(self, task_type: str) -> Window:
        """The window of a type."""
        return self._windows.setdefault(task_type, Window())

    def calls(self, batch: Batch) -> list[Batch]:
        """Split claimed tasks into calls, each of one type."""
        self.in_flight += len(batch)
        groups: dict[str, list[int]] = {}
        for position, task_type in enumerate(batch.types):
            groups.setdefault(task_type, []).append(position)
        calls = []
        for task_type, positions in groups.items():
            window = self.window(task_type)
            window.in_flight += len(positions)
            size = sum(len(batch.params[p]) for p in positions) / len(positions)
            window.bytes += 0.2 * (size - window.bytes) if window.bytes else size
            limit = min(window.call_size(self._batch_size), max(1, int(BYTES_A_CALL / (size + 1))))
            # Of equal size: not a full one and a rest.
            limit = -(-len(positions) // -(-len(positions) // limit))
            calls += [batch.take(positions[i : i + limit]) for i in range(0, len(positions), limit)]
        return calls

    def settled(self, task_type: str, tasks: int) -> None:
        """Tasks of a type are no longer in flight."""
        self.window(task_type).in_flight -= tasks
        self.in_flight -= tasks

    def ended(self, task_type: str) -> None:
        """Tasks of a type have ended: what they ran on is free."""
        window = self.window(task_type)
        window.ended_at, window.held_until = time.monotonic(), 0.0

    def idle_s(self, task_type: str) -> float:
        """Seconds since a task of the type ended."""
        return time.monotonic() - self.window(task_type).ended_at

    def begin(self, task_type: str) -> CallRecord:
        """A record for a call that begins now."""
        window = self.window(task_type)
        return CallRecord(task_type, window.size, window.full)

    def learn(self, record: CallRecord) -> None:
        """Adjust the window by a call that has ended."""
        if record.settled:
            self.window(record.type).adjust(record, self._limit)

    def shrink(self, task_type: str, running: int) -> None:
        """Some tasks of a type have waited for too long: take for now only as many as run."""
        window, now = self.window(task_type), time.monotonic()
        window.size = max(1.0, min(window.size, running))
        window.widened = False
        if now >= window.held_until:
            window.held_until = now + window.hold_s
            window.hold_s = min(2 * window.hold_s, HOLD_S[1])

    def widen(self, task_type: str) -> bool:
        """Every task of a type that is in flight runs: try some more if the window is full.

        Returns:
            Whether it grew.
        """
        window = self.window(task_type)
        if not window.full or time.monotonic() < window.held_until or window.size >= self._limit:
            return False
        if window.widened:
            # What it tried last runs: there is more room than there was.
            window.hold_s = HOLD_S[0]
        window.widened = True
        window.size = min(max(window.size + 1, window.size * PROBE), self._limit)
        return True

    def back_off(self, task_type: str) -> None:
        """Nobody took a call of this type."""
        window = self.window(task_type)
        window.size = max(1.0, window.size / GROWTH)
