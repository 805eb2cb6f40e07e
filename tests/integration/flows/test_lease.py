"""A lane's lease: kept while the lane lives, whatever its loop does, and given up in time (promises 2, 6)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from organism_flows.blocks.errors import LaneLost
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.lanes import lease
from organism_flows.flows.lanes.lane import Lane
from organism_flows.flows.lanes.lease import Lease, Report
from tests.support.flows.processes import start
from tests.support.proxy import proxied
from tests.support.scripted_organism import ScriptedOrganism
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio
LEASE_S = 30.0
"""Where the lease is kept: no machine is too slow for it. Shorter than `LOOP_STUCK_S`."""
SHORT_LEASE_S = 1.2
"""Where it runs out while a test waits."""


class Holder:
    """A lease with somebody to hold it, and what it was told."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.told: list[str] = []
        self.lost = asyncio.Event()
        self.stopped = asyncio.Event()
        self.writes = 0
        self.lease = Lease(
            queue,
            "lane-1",
            run="a run",
            on_lost=self._lose,
            on_stop=self.stopped.set,
            on_leave=self.stopped.set,
        )

    def _lose(self, why: str) -> None:
        self.told.append(why)
        self.lost.set()

    async def write(self) -> None:
        async def count() -> None:
            self.writes += 1

        await self.lease.write(count)

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        await self.lease.open()
        keeper = asyncio.create_task(self.lease.keep(lambda: Report(7, {"claims": 8})))
        await asyncio.sleep(0)  # it begins
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await self.lease.close()


@pytest.fixture
def frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat every 0.5 s, whatever the lease."""
    monkeypatch.setattr(lease, "RENEWALS_A_LEASE", 2 * LEASE_S)


@pytest.fixture
async def holder(database: str, frequent: None) -> AsyncIterator[Holder]:
    async with Queue(database, lease_s=LEASE_S) as queue:
        yield Holder(queue)


@pytest.fixture
async def short(database: str) -> AsyncIterator[Holder]:
    async with Queue(database, lease_s=SHORT_LEASE_S) as queue:
        yield Holder(queue)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lease, "clock", clock)
    return clock


class Clock:
    """The lease's clock, which can be put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self._real = lease.clock

    def __call__(self) -> float:
        return self._real() + self.ahead_s


def block_the_loop(seconds: float) -> None:
    time.sleep(seconds)


def block_the_loop_until_renewed(queue: Queue) -> None:
    """Let nothing of this loop run until the lease has been renewed three times."""

    async def watch() -> None:
        async with Queue(queue.dsn) as other:
            for _ in range(3):
                await until(await renewed(other))

    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, watch()).result()


async def renewed(queue: Queue) -> Callable[[], object]:
    [before] = await queue.reader.lanes()

    async def again() -> bool:
        [now] = await queue.reader.lanes()
        return now.renewed_at > before.renewed_at

    return again


async def test_a_blocked_event_loop_keeps_its_lease(holder: Holder) -> None:
    async with holder.keeping():
        block_the_loop_until_renewed(holder.queue)
        # Nothing else of this loop has run since: what renewed the lease was the thread.
        await holder.write()
        [row] = await holder.queue.reader.lanes()
        assert row.live
        assert row.settled == 7
    assert holder.told == []
    assert await holder.queue.reader.lanes() == []


async def test_a_lane_with_a_blocked_loop_keeps_its_tasks(database: str, frequent: None) -> None:
    """The same through a whole lane."""
    organism = ScriptedOrganism()
    async with Queue(database, lease_s=LEASE_S) as queue:
        [task_id] = await queue.submit([NewTask(type="hang")])
        run = asyncio.create_task(Lane(queue, organism, until_empty=True).run())
        await asyncio.wait_for(organism.started.wait(), 30)
        block_the_loop_until_renewed(queue)
        organism.let_go.set()
        assert (await asyncio.wait_for(run, 30)).completed == 1
        assert (await queue.get(str(task_id))).lease_lost == 0


async def test_a_loop_that_is_stuck_for_good_loses_its_lease(
    short: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOOP_STUCK_S", 0.5)
    async with short.keeping():
        block_the_loop(0.5 + SHORT_LEASE_S + short.lease.interval + 0.3)
        with pytest.raises(LaneLost, match=r"event loop did not run for 0\.5 s"):
            await short.write()
        assert (await short.queue.leases.reap()).lanes == 1, "its tasks move on"
    assert short.writes == 0
    assert len(short.told) == 1


async def test_every_write_asks_the_clock_itself(holder: Holder, clock: Clock) -> None:
    # Nothing keeps this lease and nobody watches it: neither thread nor loop can have told anything.
    await holder.lease.open()
    await holder.write()
    clock.ahead_s = LEASE_S
    with pytest.raises(LaneLost, match="did not run"):
        await holder.write()
    assert holder.writes == 1
    assert len(holder.told) == 1
    await holder.lease.close()


async def test_a_heartbeat_that_comes_too_late_is_not_sent(holder: Holder, clock: Clock) -> None:
    """Postgres would still renew a lease that nobody has reaped; whoever slept past it must not ask."""
    async with holder.keeping():
        clock.ahead_s = LEASE_S
        heartbeat = holder.lease._thread
        assert heartbeat is not None
        heartbeat.join(30)  # it runs, and nothing else
        assert not heartbeat.is_alive()
        with pytest.raises(LaneLost, match="did not run"):
            await holder.write()
    assert holder.writes == 0


async def test_a_loop_that_runs_hears_of_a_lost_lease_by_itself(database: str) -> None:
    async with proxied(database) as proxy, Queue(proxy.dsn, lease_s=SHORT_LEASE_S) as queue:
        holder = Holder(queue)
        async with holder.keeping():
            proxy.fall_silent()
            await asyncio.wait_for(holder.lost.wait(), 30)  # by our own clock: the network never answers
            with pytest.raises(LaneLost, match=f"no renewal for {SHORT_LEASE_S:g} s"):
                await holder.write()
    assert holder.writes == 0


async def test_it_is_counted_from_when_the_renewal_was_sent(database: str) -> None:
    async with proxied(database) as proxy, Queue(proxy.dsn, lease_s=SHORT_LEASE_S) as queue:
        holder = Holder(queue)
        proxy.fall_silent()
        opening = asyncio.create_task(holder.lease.open())
        # The answer comes when the lease it speaks of is nearly over.
        await asyncio.sleep(0.9 * SHORT_LEASE_S)
        proxy.speak()
        await opening
        block_the_loop(0.2 * SHORT_LEASE_S)
        with pytest.raises(LaneLost):
            await holder.write()


async def test_a_renewal_that_fails_is_tried_again(holder: Holder) -> None:
    async with holder.keeping():
        for _ in range(2):
            await until(await renewed(holder.queue))
            killed = await pool_of(holder.queue).fetchval(
                "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'organism-heartbeat') killed"
            )
            assert killed == 1, "the heartbeat has a connection of its own"
        await until(await renewed(holder.queue))
        await holder.write()
    assert holder.told == []


async def test_a_pool_without_a_free_connection_does_not_starve_it(holder: Holder) -> None:
    async with holder.keeping():
        held = [await pool_of(holder.queue).acquire() for _ in range(4)]
        block_the_loop_until_renewed(holder.queue)
        assert holder.told == []
        for connection in held:
            await pool_of(holder.queue).release(connection)
        await holder.write()


async def test_a_lease_that_was_taken_back_is_noticed(holder: Holder) -> None:
    async with holder.keeping():
        await holder.queue.leases.deregister("lane-1")
        await asyncio.wait_for(holder.lost.wait(), 30)
    assert holder.told == ["its tasks were taken back"]


async def test_a_stop_is_heard(holder: Holder) -> None:
    async with holder.keeping():
        await holder.queue.operator.request_stop("a run")
        await asyncio.wait_for(holder.stopped.wait(), 30)
    assert holder.told == []


@pytest.mark.parametrize("taken", [True, False], ids=["reaped", "not-reaped"])
async def test_a_frozen_process_ends_when_it_thaws_and_writes_nothing(database: str, taken: bool) -> None:
    async with Queue(database, lease_s=SHORT_LEASE_S) as queue:
        [task_id] = await queue.submit([NewTask(type="hang")])
        lane = start(["-m", "tests.support.flows.frozen_lane", database, str(SHORT_LEASE_S)])
        try:
            assert lane.stdout is not None
            assert lane.stdout.readline() == "started\n"
            os.kill(lane.pid, signal.SIGSTOP)
            await until(lambda: is_past(queue))
            if taken:
                assert (await queue.leases.reap()).retried == 1
            before = await queue.get(str(task_id))
            # The outcome is there the moment the lane thaws: its write is the first thing that can run.
            lane_said, _ = await asyncio.to_thread(thaw, lane)
        finally:
            lane.kill()
            lane.wait()
        assert lane_said.startswith("LaneLost")
        after = await queue.get(str(task_id))
        assert before.result is after.result is None
        # A reap that was on its way when the process froze may reach a busy Postgres later.
        if taken or [attempt.cause for attempt in after.history] != ["lease_lost"]:
            assert after == before, "a frozen lane wrote after its lease"


def thaw(lane: subprocess.Popen[str]) -> tuple[str, str]:
    assert lane.stdin is not None
    lane.stdin.write("go\n")
    lane.stdin.flush()
    os.kill(lane.pid, signal.SIGCONT)
    return lane.communicate(timeout=60)


async def is_past(queue: Queue) -> bool:
    return not any(lane.live for lane in await queue.reader.lanes())
