"""Processor time of a no-op in our own Python: on the replica, in the lane, and on the wire between them.

No stack, no Postgres and no Ray: `python -m benchmarks.per_task`. The least of many rounds is what the code
needs; other work on the machine only adds to a round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import pickle
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import uvloop
from ray import cloudpickle

from benchmarks.figures import median
from organism_flows.blocks.gc_tuning import collect_rarely
from organism_flows.blocks.queue import Batch, Outcomes, Queue, Settled
from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.flows.lanes.calls import Calls
from organism_flows.flows.lanes.lease import Lease
from organism_flows.flows.lanes.replica_messages import ReplicaMessages
from organism_flows.flows.lanes.settle_batcher import SettleBatcher
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.lanes.task_spans import TaskSpans
from organism_flows.flows.lanes.windows import Windows
from organism_flows.serve_apps.organism.manager import OrganismManager

HANDLERS = Path(__file__).parent / "handlers"
ORGANS = {
    "async": "noop",
    "async-with-context": "noop_with_context",
    "async-batch": "noop_batch",
    "def": "noop_plain",
    "def-batch": "noop_plain_batch",
}
"""Handlers that return the params, by their form."""
CALL_TASKS = 1000
CHUNK_TASKS = 250
ROUNDS = 30
Round = Callable[[], Awaitable[None]]


def tasks(kind: str, count: int) -> Batch:
    """Claimed tasks of one type, as the table gives them."""
    return Batch(
        [str(uuid4()) for _ in range(count)],
        list(range(1_000_000, 1_000_000 + count)),
        [1] * count,
        [kind] * count,
        [f'{{"n": {n}}}' for n in range(count)],
        [None] * count,
        [None] * count,
        [0.0] * count,
        [None] * count,
        [0] * count,
        [False] * count,
        [None] * count,
    )


def outcomes_of(batch: Batch) -> Outcomes:
    """Outcomes of no-ops."""
    done = Outcomes()
    for position, params in enumerate(batch.params):
        done.add(position, "completed", params, None, "fast", "noop", 0.012)
    return done


def organism() -> OrganismManager:
    """An organism with an organ for each form of handler."""
    sys.path.insert(0, str(HANDLERS))
    organs = [
        {
            "id": name,
            "task_types": [name],
            "handler": f"bench_handlers:{handler}",
            "concurrency": 1000 if name.startswith("async") else 4,
            "batch": name.endswith("batch"),
        }
        for name, handler in ORGANS.items()
    ]
    return OrganismManager({"include_builtin": False, "organs": organs})


def on_replica(manager: OrganismManager, kind: str) -> Round:
    """A call of a replica, without the way there and back."""
    wire = tasks(kind, CALL_TASKS).to_wire()

    async def call() -> None:
        left = CALL_TASKS
        async for outcomes in manager.handle_tasks(wire):
            left -= Outcomes.from_wire(outcomes).causes.count("completed")
        assert not left, f"{left} tasks were not completed"

    return call


def pickled(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message as it comes out of Serve."""
    read: dict[str, Any] = pickle.loads(cloudpickle.dumps(message))  # type: ignore[no-untyped-call]  # noqa: S301
    return read


def on_the_wire() -> Round:
    """What Serve does with the messages of a call: both are pickled and read."""
    batch = tasks("bench.noop", CALL_TASKS)
    done = outcomes_of(batch)

    async def there_and_back() -> None:
        Batch.from_wire(pickled(batch.to_wire()))
        Outcomes.from_wire(pickled(done.to_wire()))

    return there_and_back


class PreparedOrganism:
    """Answers each call at once, with outcomes made before, so that they cost the lane nothing."""

    def __init__(self) -> None:
        self._answers: dict[int, list[Outcomes]] = {}

    async def call(self, batch: Batch) -> AsyncGenerator[Outcomes, None]:
        if len(batch) not in self._answers:
            done = outcomes_of(batch)
            starts = range(0, len(done), CHUNK_TASKS)
            self._answers[len(batch)] = [
                done.take(range(start, min(start + CHUNK_TASKS, len(done)))) for start in starts
            ]
        for outcomes in self._answers[len(batch)]:
            yield outcomes

    async def cancel(self, runs: Mapping[str, int]) -> None: ...

    async def recall(self, claims: Sequence[int], *, leaving: bool) -> None: ...

    async def acknowledge(self, saved: Mapping[int, Acknowledgement]) -> None: ...


class ImmediateClaims:
    """Stores nothing."""

    async def settle(self, lane: str, batch: Batch, outcomes: Outcomes) -> Settled:
        return Settled(dict.fromkeys([batch.ids[p] for p in outcomes.positions], "completed"), [])


class EndlessLease:
    """Lets every write through."""

    async def write(self, write: Callable[[], Awaitable[Any]]) -> Any:
        return await write()


def in_lane() -> Round:
    """The way of claimed tasks through a lane, up to the statement that stores their outcomes."""
    logger = logging.getLogger("bench")
    summary, spans, windows = LaneSummary("lane"), TaskSpans("lane"), Windows(1000, 6000)
    windows.window("bench.noop").size = 6000.0
    queue = cast("Queue", SimpleNamespace(claims=ImmediateClaims()))
    lease = cast("Lease", EndlessLease())
    writer = SettleBatcher(queue, lease, summary, spans, logger, lambda: None)
    prepared = PreparedOrganism()
    messages = ReplicaMessages(prepared, "lane", logger)
    calls = Calls(prepared, writer, messages, windows, summary, spans, logger=logger, on_room=lambda: None)
    batch = tasks("bench.noop", CALL_TASKS)

    async def claimed() -> None:
        before = summary.completed
        calls.start(batch)
        while calls.running:
            await asyncio.wait(calls.running)
        assert summary.completed == before + CALL_TASKS

    return claimed


async def measure(rounds: int, only: str) -> dict[str, list[float]]:
    """Microseconds a task of each round, by what was measured."""
    manager = organism()
    cases = {f"replica, {kind}": on_replica(manager, kind) for kind in ORGANS}
    cases |= {"lane": in_lane(), "wire, there and back": on_the_wire()}
    cases = {name: one for name, one in cases.items() if only in name}
    for one in cases.values():
        for _ in range(3):
            await one()
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, one in cases.items():
            before = time.process_time()
            await one()
            found[name].append(1e6 * (time.process_time() - before) / CALL_TASKS)
    return found


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="measure what has this in its name")
    parser.add_argument("--json", action="store_true", help="print the least of each as JSON")
    arguments = parser.parse_args()
    collect_rarely()  # as replicas and lanes do
    found = uvloop.run(measure(arguments.rounds, arguments.only))
    if arguments.json:
        print(json.dumps({name: min(each) for name, each in found.items()}))
        return
    print(f"{'µs a task':28} {'least':>8} {'median':>8}")
    for name, each in found.items():
        print(f"{name:28} {min(each):8.2f} {median(each):8.2f}")


if __name__ == "__main__":
    main()
