"""Windows: how many tasks of each stream a lane has in flight, and how many of them one call carries.

The window of a stream follows the time that its tasks take, as TCP Vegas sizes its window. While tasks come
back about as soon as their handlers end, the window grows. Once they wait on the way, for a handler, a
replica or a settlement, it shrinks to the number that is being processed. So a lane keeps every replica busy
with quick tasks, holds no more slow tasks than run, and keeps no tasks waiting under its lease.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from organism_flows.blocks.queue import Batch, Outcomes
from organism_flows.flows.lanes.streams import Streams

FIRST_WINDOW = 32
SLACK_S = 0.15
"""Time that a task may take beyond its handler's own time, in seconds.

A call, the way back of its outcomes and their settlement take 15 to 40 ms under full load. So this value
keeps calls in flight all the time, and no more.
"""
CALL_S = 0.05
"""Target for the duration of one call, in seconds.

It is long compared with the cost of a call, about 1 ms, and short enough that replicas share the work.
"""
CALLS_A_WINDOW = 4
"""Least number of calls that a window is split into: while one is settled, others run."""
GROWTH = 4.0
"""Largest factor by which a window grows or shrinks while as many tasks settle as it holds."""
PROBE = 1.25
"""Least growth of a full window whose tasks hardly waited: the window itself may be the bottleneck."""
BYTES_IN_FLIGHT = 64_000_000
"""Upper bound on the params of one stream in flight, in characters."""
BYTES_A_CALL = 8_000_000
"""Upper bound on the params in one call, in characters."""
WINDOWS_KEPT = 10_000
"""Most windows kept. Beyond them, those of streams with nothing in flight are forgotten."""
WINDOWS_SHOWN = 20
"""Most windows that a lane reports."""
HOLD_S = (2.0, 10.0)
"""Time for which a window does not grow after tasks waited for too long: first and longest, in seconds.

It doubles each time. Serve chooses the replica, and only one may have a free slot: with 120 s, one of eight
tasks of 20 min waited for 12 min while a slot was free. An attempt that fails costs a claim and its return.
"""


@dataclass(slots=True)
class Window:
    """Window of one stream: how many of its tasks may be in flight."""

    size: float = FIRST_WINDOW
    in_flight: int = 0
    latency_s: float = SLACK_S
    """Time from claim to settlement, as a moving average."""
    bytes: float = 0.0
    """Size of the params of one task, as a moving average."""
    held_until: float = 0.0
    """The window does not grow before this moment of `time.monotonic`."""
    hold_s: float = HOLD_S[0]
    ended_at: float = 0.0
    """When a task of the stream last ended, by `time.monotonic`."""
    widened: bool = False
    """True if the last change of the window was `Windows.widen`."""

    def call_size(self, limit: int) -> int:
        """Return how many tasks one call should carry: about as many as are settled in `CALL_S`."""
        rate = self.size / self.latency_s
        return max(1, min(limit, int(rate * CALL_S), int(self.size / CALLS_A_WINDOW)))

    @property
    def full(self) -> bool:
        """Return True if about as many tasks are in flight as may be. Only then can it be too small."""
        return self.in_flight >= 0.75 * int(self.size)

    def adjust(self, call: CallRecord, limit: float) -> None:
        """Adjust the window to a call that settled tasks; ``limit`` is its largest size."""
        latency_s, service_s = call.latency_s / call.settled, call.service_s / call.settled
        # A call weighs as much as its share of the window, so a full window of tasks changes it once. The
        # share is of the window as the call began: calls of one window end together, and the first one
        # changes it.
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
    """Times of the tasks of one call, and the window that it began in."""

    stream: str
    window: float
    """Size of the window when the call began."""
    full: bool
    """True if the window was full when the call began."""
    started: float = field(default_factory=time.monotonic)
    settled: int = 0
    """Number of settled tasks."""
    latency_s: float = 0.0
    """Sum of the times from claim to settlement."""
    service_s: float = 0.0
    """Sum of the times in the handler."""

    def add(self, outcomes: Outcomes) -> None:
        """Add outcomes that have just been settled."""
        self.settled += len(outcomes)
        self.latency_s += len(outcomes) * (time.monotonic() - self.started)
        self.service_s += sum(outcomes.elapsed_ms) / 1000


class Windows:
    """The windows of one lane.

    Args:
        batch_size: Upper bound on the tasks in one call.
        tasks_in_flight: Upper bound on the tasks in flight, all streams together.
    """

    def __init__(self, batch_size: int, tasks_in_flight: int) -> None:
        self._batch_size = batch_size
        self._limit = tasks_in_flight
        self._windows: dict[str, Window] = {}
        self.streams = Streams()
        self.in_flight = 0
        """Tasks in flight, all streams together."""

    @property
    def left(self) -> int:
        """Return how many tasks may be claimed now, all streams together."""
        return self._limit - self.in_flight

    def room(self, stream: str) -> int:
        """Return how many tasks of a stream may be claimed now: 0, or enough for a call of the right size."""
        window = self.window(stream)
        if not window.in_flight and time.monotonic() < window.held_until:
            return 0
        room = int(window.size) - window.in_flight
        enough = not window.in_flight or room >= window.call_size(self._batch_size)
        return room if enough else 0

    def window(self, stream: str) -> Window:
        """Return the window of a stream."""
        if stream not in self._windows and len(self._windows) >= WINDOWS_KEPT:
            self._windows = {name: window for name, window in self._windows.items() if window.in_flight}
        return self._windows.setdefault(stream, Window())

    @property
    def sizes(self) -> dict[str, int]:
        """Return the sizes of the windows of the streams that hold most. It is safe in any thread."""
        streams = list(self._windows.items())  # one step: others may be added meanwhile
        held = sorted(streams, key=lambda one: -one[1].in_flight)
        return {name: int(window.size) for name, window in held[:WINDOWS_SHOWN]}

    def calls(self, batch: Batch) -> list[tuple[str, Batch]]:
        """Split claimed tasks into calls, each of one stream, and return them with its name."""
        self.in_flight += len(batch)
        calls = []
        for stream, positions in self._together(batch):
            window = self.window(stream)
            window.in_flight += len(positions)
            size = sum(len(batch.params[p]) for p in positions) / len(positions)
            window.bytes += 0.2 * (size - window.bytes) if window.bytes else size
            limit = min(window.call_size(self._batch_size), max(1, int(BYTES_A_CALL / (size + 1))))
            # Calls of equal size, instead of full ones and a small rest.
            limit = -(-len(positions) // -(-len(positions) // limit))
            parts = (positions[i : i + limit] for i in range(0, len(positions), limit))
            calls += [(stream, batch.take(part)) for part in parts]
        return calls

    def _together(self, batch: Batch) -> list[tuple[str, Sequence[int]]]:
        """Return the positions of the tasks that may share a call, with their stream."""
        streams = self._by_stream(batch)
        if not batch.keys:
            return list(streams.items())
        groups: dict[tuple[str, str], list[int]] = {}
        for stream, positions in streams.items():
            for position in positions:
                groups.setdefault((stream, batch.keys.get(batch.claims[position], "")), []).append(position)
        return [(stream, positions) for (stream, _), positions in groups.items()]

    def _by_stream(self, batch: Batch) -> dict[str, Sequence[int]]:
        """Return the positions of the tasks of each stream."""
        places = list(zip(batch.types, batch.domains, strict=True))
        streams = {place: self.streams.of(*place) for place in dict.fromkeys(places)}
        if len(names := set(streams.values())) == 1:
            return {names.pop(): range(len(batch))}
        groups: dict[str, list[int]] = {}
        for position, place in enumerate(places):
            groups.setdefault(streams[place], []).append(position)
        return {**groups}

    def settled(self, stream: str, tasks: int) -> None:
        """Record that tasks of a stream are no longer in flight."""
        self.window(stream).in_flight -= tasks
        self.in_flight -= tasks

    def ended(self, stream: str) -> None:
        """Record that tasks of a stream have ended, so their slots are free."""
        window = self.window(stream)
        window.ended_at, window.held_until = time.monotonic(), 0.0

    def idle_s(self, stream: str) -> float:
        """Return the seconds since a task of the stream ended."""
        return time.monotonic() - self.window(stream).ended_at

    def begin(self, stream: str) -> CallRecord:
        """Return a record for a call that begins now."""
        window = self.window(stream)
        return CallRecord(stream, window.size, window.full)

    def learn(self, record: CallRecord) -> None:
        """Adjust the window to a call that has ended."""
        if record.settled:
            self.window(record.stream).adjust(record, self._limit)

    def shrink(self, stream: str, running: int) -> None:
        """Shrink the window to the tasks that run, and hold it, because others waited for too long."""
        window, now = self.window(stream), time.monotonic()
        window.size = max(1.0, min(window.size, running))
        window.widened = False
        if now >= window.held_until:
            window.held_until = now + window.hold_s
            window.hold_s = min(2 * window.hold_s, HOLD_S[1])

    def widen(self, stream: str) -> bool:
        """Grow the window if it is full and not held, because every task of the stream in flight runs.

        Returns:
            True if it grew.
        """
        window = self.window(stream)
        if not window.full or time.monotonic() < window.held_until or window.size >= self._limit:
            return False
        if window.widened:
            # The tasks that it was widened for run: there is more room than before.
            window.hold_s = HOLD_S[0]
        window.widened = True
        window.size = min(max(window.size + 1, window.size * PROBE), self._limit)
        return True

    def back_off(self, stream: str) -> None:
        """Shrink the window, because no replica took a call of this stream."""
        window = self.window(stream)
        window.size = max(1.0, window.size / GROWTH)
