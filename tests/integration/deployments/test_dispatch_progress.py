"""What a terminal shows while a dispatch works."""

from __future__ import annotations

import io
import json
import sys

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.deployments.cli import dispatch_progress
from organism_flows.deployments.cli.commands.operation.dispatch import _report
from organism_flows.deployments.cli.dispatch_progress import QueueWatch, Snapshot, shown
from organism_flows.flows.supervision.supervisor import DispatchSummary
from tests.support.proxy import proxied
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("snapshot", "line"),
    [
        (Snapshot(0, 0, None, 0.0, 0, 0.0), "0 done · 0.0 tasks/s"),
        (
            Snapshot(1204, 3, 812, 83.4, 2, 252.0),
            "1,204 done, 3 dead letters, 812 left · 83 tasks/s · 2 run longer than 30 s, "
            "the longest 00:04:12",
        ),
        (
            Snapshot(1, 1, 0, 0.25, 1, 90061.0),
            "1 done, 1 dead letter, 0 left · 0.2 tasks/s · 1 runs longer than 30 s, the longest 25:01:01",
        ),
    ],
)
def test_it_is_one_line(snapshot: Snapshot, line: str) -> None:
    assert snapshot.line == line


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def settle(queue: Queue, completed: int, failed: int = 0) -> None:
    """As if lane ``l`` had settled so many so far, and tasks were gone accordingly."""
    await queue.leases.report(
        "l", settled=completed + failed, figures={"completed": completed, "failed": failed}
    )


async def test_it_counts_from_its_start_on(queue: Queue) -> None:
    await queue.leases.register("l", run="r")
    await settle(queue, 1000, 10)
    await queue.submit([NewTask(type="t")] * 50)
    clock = Clock()
    watch = QueueWatch(queue, clock)
    first = await watch.read()
    assert (first.done, first.dead_letters, first.left, first.per_second) == (0, 0, 50, 0.0)
    clock.now += 2
    await settle(queue, 1018, 12)
    second = await watch.read()
    assert (second.done, second.dead_letters, second.per_second) == (18, 2, 10.0)
    assert second.left == 30, "not counted again so soon, but reckoned"
    clock.now += 10
    assert (await watch.read()).left == 50, "counted again: these are still there"
    for _ in range(3):
        clock.now += 10
        last = await watch.read()
    assert last.per_second == 0, "the rate is that of the last seconds"


async def test_counting_what_is_left_takes_a_bounded_share_of_the_time(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, counted = Clock(), []

    async def slowly() -> int:
        clock.now += 2
        counted.append(clock.now)
        return 7

    monkeypatch.setattr(queue.reader, "remaining", slowly)
    watch = QueueWatch(queue, clock)
    for _ in range(300):
        clock.now += 1
        await watch.read()
    assert len(counted) == 4


async def test_tasks_that_run_for_long_are_told(queue: Queue) -> None:
    await queue.leases.register("l", run="r")
    await queue.submit([NewTask(type="t")] * 3)
    await queue.claims.claim("l", 3)
    await pool_of(queue).execute(
        "UPDATE tasks SET locked_at = queue_now() - interval '300 s',"
        " begun_at = queue_now() - interval '252 s'"
        " WHERE id = (SELECT min(id::text)::uuid FROM tasks)"
    )
    snapshot = await QueueWatch(queue).read()
    assert snapshot.long_running == 1
    assert 252 <= snapshot.longest_s < 280


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
async def test_it_is_shown_beside_the_log_through_an_outage_of_postgres(
    database: str, monkeypatch: pytest.MonkeyPatch, kind: type[io.StringIO]
) -> None:
    # Here, because pytest puts its own in place for the call of a test.
    stderr = kind()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(dispatch_progress, "LIVE_INTERVAL_S", 0.01)
    monkeypatch.setattr(dispatch_progress, "LINES_INTERVAL_S", 0.01)
    monkeypatch.setenv("COLUMNS", "200")
    async with proxied(database) as proxy, Queue(proxy.dsn, connections=1) as queue:
        await queue.submit([NewTask(type="t")])
        async with shown(queue):
            await until(lambda: "0 done, 1 left · 0.0 tasks/s" in stderr.getvalue(), patience=10)
            print("a line of the log", file=sys.stderr)
            proxy.cut()
            seen = len(stderr.getvalue())
            await until(lambda: "0 done" in stderr.getvalue()[seen:], patience=10)
    assert "a line of the log\n" in stderr.getvalue()
    assert sys.stderr is stderr


@pytest.mark.parametrize(("left", "code"), [(None, 0), (0, 0), (1812, 1)])
def test_a_queue_that_is_not_empty_is_told_and_fails(
    left: int | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = DispatchSummary(completed=5, seconds=60.2)
    assert _report(summary, left, as_json=False) == code
    out = capsys.readouterr().out
    assert ("stopped after 60 s with about 1,812 tasks left" in out) is bool(code)
    assert _report(summary, left, as_json=True) == code
    told = json.loads(capsys.readouterr().out)
    assert told["completed"] == 5
    assert told.get("left") == (left or None)
    assert ("stopped_early" in told) is bool(code)
