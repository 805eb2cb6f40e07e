"""Settlements of several calls in one statement, under the lease: each call waits for its own tasks."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from organism_flows.blocks.queue import Batch, NewTask, Outcomes, Queue, Settled
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.queue.stores.claims import Claims
from organism_flows.flows.lanes.lease import Lease
from organism_flows.flows.lanes.settle_batcher import STATEMENTS_AT_ONCE, TASKS_A_STATEMENT, SettleBatcher
from organism_flows.flows.lanes.summary import LaneSummary
from organism_flows.flows.lanes.task_spans import TaskSpans

pytestmark = pytest.mark.anyio
TIMEOUT = 30
NOWHERE = "postgresql://nowhere/"


class Table(Claims):
    """Takes outcomes only while the gate is open; those of ids that begin with ``stale`` change nothing.

    No connection is opened: nothing of the real claims is called.
    """

    def __init__(self) -> None:
        database = Database(NOWHERE, connections=1, application_name="test")
        super().__init__(database, backoff_base_s=1, backoff_cap_s=1)
        self.summary = LaneSummary("lane")
        self.gate = asyncio.Event()
        self.asked = asyncio.Semaphore(0)
        self.statements: list[list[str]] = []
        self.at_once = self.most_at_once = 0
        self.error: BaseException | None = None

    async def settle(self, lane: str, batch: Batch, outcomes: Outcomes) -> Settled:
        ids = [batch.ids[p] for p in outcomes.positions]
        assert [f"id-{batch.claims[p]}" for p in outcomes.positions] == [
            i.replace("stale", "id") for i in ids
        ]
        self.statements.append(ids)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.asked.release()
        try:
            await self.gate.wait()
            for _ in range(3):  # others have their turn meanwhile
                await asyncio.sleep(0)
            if self.error:
                raise self.error
        finally:
            self.at_once -= 1
        return Settled(
            {i: "completed" for i in ids if not i.startswith("stale")},
            [i for i in ids if i.startswith("stale")],
        )

    async def release(self, lane: str, batch: Batch, **_: Any) -> dict[str, Any]:
        self.asked.release()
        await self.gate.wait()
        return dict.fromkeys(batch.ids, "queued")

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(TIMEOUT):
            for _ in range(times):
                await self.asked.acquire()


def call(*numbers: int, stale: bool = False) -> Batch:
    name = "stale" if stale else "id"
    return Batch(ids=[f"{name}-{n}" for n in numbers], claims=list(numbers))


def outcomes_of(batch: Batch, positions: range | list[int] | None = None) -> Outcomes:
    outcomes = Outcomes()
    for position in positions if positions is not None else range(len(batch)):
        outcomes.add(position, "completed", result="1")
    return outcomes


class HeldLease(Lease):
    """A lease that is held without a heartbeat; ``writes`` counts the writes under it."""

    def __init__(self, queue: Queue) -> None:
        ignore = lambda *_: None  # noqa: E731
        super().__init__(queue, "lane", run=None, on_lost=ignore, on_stop=ignore, on_leave=ignore)
        self.writes = 0

    async def write(self, write: Callable[[], Awaitable[Any]]) -> Any:
        self.writes += 1
        return await write()


def batcher(queue: Queue, summary: LaneSummary) -> SettleBatcher:
    return SettleBatcher(
        queue, HeldLease(queue), summary, TaskSpans("lane"), logging.getLogger("test"), lambda: None
    )


@pytest.fixture
async def table() -> Table:
    return Table()


@pytest.fixture
async def settler(table: Table) -> SettleBatcher:
    queue = Queue(NOWHERE)
    queue.claims = table
    return batcher(queue, table.summary)


async def begin(settler: SettleBatcher, *calls: Batch) -> list[asyncio.Task[None]]:
    """Settlements that have been asked for."""
    tasks = [asyncio.create_task(settler.settle(each, outcomes_of(each))) for each in calls]
    await asyncio.sleep(0)
    return tasks


async def busy(settler: SettleBatcher, table: Table) -> list[asyncio.Task[None]]:
    """As many settlements as there are statements at once, under way."""
    tasks = []
    for n in range(STATEMENTS_AT_ONCE):
        tasks += await begin(settler, call(n))
        await table.until_asked(1)
    return tasks


async def test_what_comes_in_while_statements_are_under_way_makes_one(
    table: Table, settler: SettleBatcher
) -> None:
    tasks = await busy(settler, table)
    tasks += await begin(settler, call(10, 11), call(12, stale=True), call(13, 14))
    assert len(table.statements) == STATEMENTS_AT_ONCE
    table.gate.set()
    await asyncio.wait_for(asyncio.gather(*tasks), TIMEOUT)
    assert table.statements[STATEMENTS_AT_ONCE:] == [["id-10", "id-11", "stale-12", "id-13", "id-14"]]
    assert (table.summary.completed, table.summary.stale) == (STATEMENTS_AT_ONCE + 4, 1)


async def test_positions_of_each_call_are_its_own(table: Table, settler: SettleBatcher) -> None:
    """Outcomes come in any order and name the places of their own batch."""
    tasks = await busy(settler, table)
    first, second = call(10, 11, 12), call(20, 21, 22)
    tasks += [
        asyncio.create_task(settler.settle(first, outcomes_of(first, [2, 0]))),
        asyncio.create_task(settler.settle(second, outcomes_of(second, [1]))),
    ]
    await asyncio.sleep(0)
    table.gate.set()
    await asyncio.wait_for(asyncio.gather(*tasks), TIMEOUT)
    assert table.statements[-1] == ["id-12", "id-10", "id-21"]


async def test_statements_are_bounded_in_number_and_size_and_nothing_is_written_twice(
    table: Table, settler: SettleBatcher
) -> None:
    random = Random(7)
    table.gate.set()
    calls, numbers = [], iter(range(1_000_000))
    for _ in range(200):
        size = random.choice([1, 5, 300, 700, TASKS_A_STATEMENT + 1])
        calls.append(call(*(next(numbers) for _ in range(size)), stale=random.random() < 0.2))
    tasks = []
    for each in calls:
        tasks += await begin(settler, each)
        if random.random() < 0.3:
            await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*tasks), TIMEOUT)
    await settler.close()
    assert table.most_at_once == STATEMENTS_AT_ONCE
    sizes = {len(each) for each in calls}
    assert all(len(ids) <= TASKS_A_STATEMENT or len(ids) in sizes for ids in table.statements)
    assert Counter(i for ids in table.statements for i in ids) == Counter(
        i for each in calls for i in each.ids
    )
    assert table.summary.completed + table.summary.stale == sum(map(len, calls))


async def test_an_error_reaches_every_call_of_its_statement_and_no_other(
    table: Table, settler: SettleBatcher
) -> None:
    before = await busy(settler, table)
    failing = await begin(settler, call(10), call(11))
    table.error = ConnectionError("gone")
    table.gate.set()
    results = await asyncio.wait_for(asyncio.gather(*before, *failing, return_exceptions=True), TIMEOUT)
    assert [str(result) for result in results] == ["gone"] * 4
    table.error = None
    [after] = await begin(settler, call(12))
    await asyncio.wait_for(after, TIMEOUT)
    assert table.summary.completed == 1


async def test_a_call_that_is_cancelled_stays_until_its_outcomes_are_written(
    table: Table, settler: SettleBatcher
) -> None:
    """Else it would hand back tasks that the statement settles."""
    tasks = await busy(settler, table)
    cancelled, other = await begin(settler, call(10), call(11))
    released = asyncio.create_task(settler.release(call(12), "interrupted", "stopped"))
    await table.until_asked(1)
    for _ in range(2):  # a lane that closes cancels what a process that ends has cancelled already
        cancelled.cancel()
        released.cancel()
        await asyncio.sleep(0)
    assert not cancelled.done()
    assert not released.done()
    table.gate.set()
    await asyncio.wait_for(asyncio.gather(other, *tasks), TIMEOUT)
    results = await asyncio.wait_for(asyncio.gather(cancelled, released, return_exceptions=True), TIMEOUT)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    assert table.statements[-1] == ["id-10", "id-11"]
    assert table.summary.released == 1


async def test_closing_waits_until_all_is_written(table: Table, settler: SettleBatcher) -> None:
    tasks = [*await busy(settler, table), *await begin(settler, call(10), call(11))]
    closing = asyncio.create_task(settler.close())
    await asyncio.sleep(0)
    assert not closing.done()
    table.gate.set()
    await asyncio.wait_for(closing, TIMEOUT)
    await asyncio.gather(*tasks)
    assert sum(map(len, table.statements)) == STATEMENTS_AT_ONCE + 2


async def test_one_unstorable_result_does_not_sink_the_calls_it_was_merged_with(queue: Queue) -> None:
    await queue.submit([NewTask(type="t") for _ in range(40)])
    await queue.leases.register("lane")
    batch = await queue.claims.claim("lane", 40)
    bad = {3, 17, 38}
    lease = HeldLease(queue)
    summary, spans = LaneSummary("lane"), TaskSpans("lane")
    settler = SettleBatcher(queue, lease, summary, spans, logging.getLogger("test"), lambda: None)

    async def report(part: Batch, first: int) -> None:
        outcomes = outcomes_of(part)
        for position in range(len(part)):
            if first + position in bad:
                outcomes.results[position] = '"\\u0000"'
        await settler.settle(part, outcomes)

    parts = [(batch.take(range(n, n + 4)), n) for n in range(0, 40, 4)]
    await asyncio.wait_for(asyncio.gather(*(report(*part) for part in parts)), TIMEOUT)
    assert lease.writes < len(parts), "they were merged"
    statuses = {i: (await queue.get(i)).status for i in batch.ids}
    assert [statuses[i] for i in batch.ids] == ["failed" if n in bad else "completed" for n in range(40)]
    counts = await queue.reader.counts()
    assert (counts["completed"], counts["failed"]) == (37, 3)
