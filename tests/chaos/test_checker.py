"""The checker sees it when a guard is missing: each is taken out on purpose, and its scenario must turn red.

Plain asyncio lanes on a real Postgres, so that every scenario is the same each time: nothing here is random.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import pytest

from organism_flows.blocks.errors import EventRefused
from organism_flows.blocks.queue import Batch, NewTask, Outcomes, Queue, ReapResult, Settled
from organism_flows.blocks.queue.stores.claims import Claims
from organism_flows.blocks.queue.stores.leases import Leases
from organism_flows.blocks.task_report import Chunks, TaskReport
from organism_flows.flows.lanes import lease
from organism_flows.flows.lanes.calls import OpenCall
from organism_flows.flows.lanes.lane import Lane
from organism_flows.flows.lanes.lease import Lease
from tests.chaos.witness import EVENT, Witness
from tests.support.history import (
    Change,
    Charge,
    Expected,
    History,
    Run,
    install_history,
    overlaps,
    read_history,
    runs_in,
    violations,
)
from tests.support.proxy import proxied
from tests.support.sql import database_of, edit_statements, pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio
SHORT_LEASE_S = 2.4
"""The lease of a lane that is to lose it."""
LEASE_S = 6.0
"""The lease of a lane that is to keep it, on a machine that may stand still for some seconds."""
LONG_ENOUGH_S = 8.0
"""A lane that is not done by then will never be."""

Scenario: TypeAlias = Callable[[Queue], Awaitable[list[str]]]


@pytest.fixture
async def queue(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Queue]:
    # A lane looks for those that are gone as often as it renews its lease.
    monkeypatch.setattr(lease, "RENEWALS_A_LEASE", 6)
    async with Queue(database, lease_s=LEASE_S, backoff_base_s=0.02, backoff_cap_s=0.1) as queue:
        await install_history(queue)
        yield queue


@asynccontextmanager
async def running(lane: Lane) -> AsyncIterator[asyncio.Task[Any]]:
    task = asyncio.create_task(lane.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(Exception, asyncio.CancelledError):
            await asyncio.wait_for(task, 30)


async def happens(event: asyncio.Event, lane: asyncio.Task[Any]) -> None:
    """Wait for what ``lane`` is to bring about; an error that ends the lane before is raised."""
    waiting = asyncio.create_task(event.wait())
    try:
        async with asyncio.timeout(30):
            await asyncio.wait([waiting, lane], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if not event.is_set():
        raise AssertionError(f"the lane ended before: {lane.result()}")


async def lost_lane(queue: Queue, name: str) -> None:
    """Register a lane that never renews its short lease."""
    await Leases(database_of(queue), lease_s=SHORT_LEASE_S).register(name)


async def verdict(queue: Queue, witness: Witness, expected: dict[UUID, Expected]) -> list[str]:
    """What the checker finds; two runs of one task at once count as broken here, where no process dies."""
    history = await read_history(queue)
    history.runs = witness.runs
    return violations(history, expected) + [f"{task} ran twice at once" for task in overlaps(history)]


class SlowClaims(Claims):
    """Claims whose settlements stay on their way for as long as one likes."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(database_of(queue), backoff_base_s=1.0, backoff_cap_s=300.0)
        self.let_through = asyncio.Event()
        self.arrived = asyncio.Event()

    async def settle(self, lane: str, batch: Batch, outcomes: Outcomes) -> Settled:
        await self.let_through.wait()
        settled = await super().settle(lane, batch, outcomes)
        self.arrived.set()
        return settled


async def a_late_settlement(queue: Queue) -> list[str]:
    """A lane's settlement is on its way for so long that another lane has the task by then."""
    first, witness = Witness(), Witness()
    witness.runs = first.runs
    first.let_go.set()
    [task] = await queue.submit([NewTask(type="held")])
    async with proxied(queue.dsn) as proxy, Queue(proxy.dsn, lease_s=SHORT_LEASE_S) as far_queue:
        far_queue.claims = far_claims = SlowClaims(far_queue)
        async with running(Lane(far_queue, first)) as far_lane:
            await happens(first.begun, far_lane)
            proxy.fall_silent()
            async with running(Lane(queue, witness, until_empty=True)) as other:
                await happens(witness.begun, other)
                proxy.speak()
                far_claims.let_through.set()
                async with asyncio.timeout(30):
                    await far_claims.arrived.wait()
                witness.let_go.set()
                await asyncio.wait([other], timeout=LONG_ENOUGH_S)
    return await verdict(queue, witness, {task: Expected("completed", 1)})


async def a_cut_off_lane(queue: Queue) -> list[str]:
    """A lane loses the database, not its replica, in the middle of a task that another lane then runs."""
    first, witness = Witness(), Witness()
    witness.runs = first.runs
    [task] = await queue.submit([NewTask(type="held")])
    async with (
        proxied(queue.dsn) as proxy,
        Queue(proxy.dsn, lease_s=SHORT_LEASE_S) as far_queue,
        running(Lane(far_queue, first)) as far_lane,
    ):
        await happens(first.begun, far_lane)
        proxy.fall_silent()
        async with running(Lane(queue, witness, until_empty=True)) as other:
            await happens(witness.begun, other)
            witness.let_go.set()
            await asyncio.wait([other], timeout=LONG_ENOUGH_S)
            first.let_go.set()
            proxy.speak()
    return await verdict(queue, witness, {task: Expected("completed", 1)})


async def a_poisonous_task(queue: Queue) -> list[str]:
    """A task ends its replica while others run on it."""
    witness = Witness(neighbours=1)
    harmless = [NewTask(type="held", max_attempts=3) for _ in range(8)]
    poison = NewTask(type="poison", max_attempts=2)
    ids = await queue.submit([*harmless, poison])
    async with running(Lane(queue, witness, until_empty=True)) as lane:
        await asyncio.wait([lane], timeout=LONG_ENOUGH_S)
        expected = dict.fromkeys(ids, Expected("completed", 1)) | {ids[-1]: Expected("failed", 2)}
        return await verdict(queue, witness, expected)


async def a_killed_lane(queue: Queue) -> list[str]:
    """A lane is gone without a word, with a task in its hands."""
    witness = Witness()
    witness.let_go.set()
    [task] = await queue.submit([NewTask(type="held")])
    await lost_lane(queue, "killed")
    assert len(await queue.claims.claim("killed", 1)) == 1
    async with running(Lane(queue, witness, until_empty=True)) as lane:
        await asyncio.wait([lane], timeout=LONG_ENOUGH_S)
        return await verdict(queue, witness, {task: Expected("completed", 1)})


async def a_stream_of_two_attempts(queue: Queue) -> list[str]:
    """A lane that has written some chunks of a task is gone, and another runs it to its end."""
    witness = Witness(emits=True)
    witness.let_go.set()
    [task] = await queue.submit([NewTask(type="held")])
    await lost_lane(queue, "killed")
    batch = await queue.claims.claim("killed", 1)
    chunks = Chunks([f"[{batch.claims[0]}, 1]"]).numbered(None)
    await queue.reports.record(batch, [TaskReport(chunks=chunks)])
    async with running(Lane(queue, witness, until_empty=True)) as lane:
        await asyncio.wait([lane], timeout=LONG_ENOUGH_S)
        return await verdict(queue, witness, {task: Expected("completed", 1)})


async def waits_for_events(queue: Queue) -> list[str]:
    """Two tasks wait for an event: one that comes early and once more, and one that comes when it waits."""
    witness = Witness()
    witness.let_go.set()
    early, late = await queue.submit([NewTask(type="asks")] * 2)
    await queue.producer.send_event(early, EVENT, "early")
    await queue.producer.send_event(early, EVENT, "again")

    async def waits() -> bool:
        waited = "SELECT EXISTS (SELECT FROM test_history WHERE task = $1 AND waits = $2)"
        return bool(await pool_of(queue).fetchval(waited, late, EVENT))

    async def completed(number: int) -> bool:
        return (await queue.reader.counts())["completed"] >= number

    async with running(Lane(queue, witness)):
        await until(waits, patience=30)
        # When a later task has been claimed, whatever is due would have been too.
        [later] = await queue.submit([NewTask(type="held")])
        with suppress(AssertionError, EventRefused):
            await until(partial(completed, 2), patience=LONG_ENOUGH_S)
            await queue.producer.send_event(late, EVENT, "late")
            await until(partial(completed, 3), patience=LONG_ENOUGH_S)
        expected = {later: Expected("completed", 1)}
        expected |= {
            task: Expected("completed", 1, (what,)) for task, what in ((early, "early"), (late, "late"))
        }
        return await verdict(queue, witness, expected)


def no_token_check(patch: pytest.MonkeyPatch) -> None:
    """Settlements no longer compare the claim."""

    fence = "t.claim = r.claim AND t.status = 'running'"
    edit_statements(patch, {"settle", "complete"}, fence, "t.status = 'running'")


def no_lease_watchdog(patch: pytest.MonkeyPatch) -> None:
    """A lane no longer notices that its lease is past."""
    patch.setattr(Lease, "_is_past", lambda self: False)


def no_isolation(patch: pytest.MonkeyPatch) -> None:
    """Nobody is suspected of a replica's death."""

    async def release(
        self: Claims, *args: Any, suspicion: int = 0, real: Any = Claims.release, **kwargs: Any
    ) -> Any:
        return await real(self, *args, **kwargs)

    patch.setattr(Claims, "release", release)


def everybody_is_charged(patch: pytest.MonkeyPatch) -> None:
    """A replica's death is charged to all that was on it."""

    async def release(self: Claims, lane: str, batch: Batch, *, error: str, **_: Any) -> dict[str, Any]:
        outcomes = Outcomes()
        for position in range(len(batch)):
            outcomes.add(position, "failed", error=error)
        return (await self.settle(lane, batch, outcomes)).statuses

    patch.setattr(Claims, "release", release)


def nothing_is_recorded(patch: pytest.MonkeyPatch) -> None:
    """What is handed back leaves no line in its history."""

    async def release(self: Claims, *args: Any, real: Any = Claims.release, **kwargs: Any) -> Any:
        return await real(self, *args, **kwargs | {"cause": None})

    patch.setattr(Claims, "release", release)


def no_reaper(patch: pytest.MonkeyPatch) -> None:
    """What a dead lane held stays with it."""

    async def reap(self: Leases, **_: Any) -> ReapResult:
        return ReapResult(lanes=0, retried=0, failed=0)

    patch.setattr(Leases, "reap", reap)


def mixed_streams(patch: pytest.MonkeyPatch) -> None:
    """Chunks of earlier attempts stay, and readers get them too."""
    edit_statements(patch, {"record_reports"}, "(earlier.claim, earlier.number) <", "false AND (0, 0) <")
    edit_statements(patch, {"streams"}, " AND c.claim = t.claim\n", "\n")


def streams_without_numbers(patch: pytest.MonkeyPatch) -> None:
    """A lane forgets how many chunks of a claim it has written."""
    patch.setattr(OpenCall, "with_numbers", lambda _, r: r._replace(chunks=r.chunks.numbered(None)))


def early_events_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A task that begins to wait does not look for events that came before."""
    edit_statements(patch, {"deliver_kept"}, "e.delivered_at IS NULL", "false")


def waits_are_due_at_once(patch: pytest.MonkeyPatch) -> None:
    """A task that waits without a timeout is claimed again."""
    edit_statements(patch, {"snooze"}, "THEN 'infinity' ELSE", "THEN queue_now() ELSE")


def waits_hold_their_slot(patch: pytest.MonkeyPatch) -> None:
    """A task that waits stays with its lane."""
    edit_statements(patch, {"snooze"}, "locked_by = NULL, locked_at = NULL, ", "")


def payloads_are_lost(patch: pytest.MonkeyPatch) -> None:
    """Nobody gets what came with an event."""
    edit_statements(patch, {"restored"}, "event.payload::text AS payload", "NULL::text AS payload")


SCENARIOS: list[Scenario] = [
    a_late_settlement,
    a_cut_off_lane,
    a_poisonous_task,
    a_killed_lane,
    a_stream_of_two_attempts,
    waits_for_events,
]
BROKEN = [
    (no_token_check, a_late_settlement, "holds the result of claim"),
    (no_lease_watchdog, a_cut_off_lane, "ran twice at once"),
    (no_isolation, a_poisonous_task, "(poison): is still"),
    (everybody_is_charged, a_poisonous_task, "(held): was charged"),
    (nothing_is_recorded, a_poisonous_task, "without a recorded reason after claims"),
    (no_reaper, a_killed_lane, "is still running"),
    (mixed_streams, a_stream_of_two_attempts, "has a stream that is not the one of claim"),
    (streams_without_numbers, a_stream_of_two_attempts, "its stream has 1 chunks of 3"),
    (early_events_are_forgotten, waits_for_events, "(asks): is still queued"),
    (waits_are_due_at_once, waits_for_events, "was claimed while it waited for go"),
    (waits_hold_their_slot, waits_for_events, "while it waits for go"),
    (payloads_are_lost, waits_for_events, "was resumed with [None], not"),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda f: f.__name__)
async def test_with_every_guard_in_place_the_checker_is_silent(queue: Queue, scenario: Scenario) -> None:
    assert await scenario(queue) == []


ALWAYS = {no_token_check, mixed_streams, payloads_are_lost}
"""Of the rest, some wait out what never ends."""


@pytest.mark.parametrize(
    ("remove", "scenario", "finding"),
    [pytest.param(*broken, marks=() if broken[0] in ALWAYS else pytest.mark.soak) for broken in BROKEN],
    ids=lambda f: getattr(f, "__name__", None),
)
async def test_without_a_guard_the_checker_turns_red(
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[pytest.MonkeyPatch], None],
    scenario: Scenario,
    finding: str,
) -> None:
    remove(monkeypatch)
    found = await scenario(queue)
    assert any(finding in line for line in found), found


def with_runs(*runs: Run, causes: dict[int, str]) -> History:
    """The history of one completed task: its runs, and why claims did not complete it."""
    task, now = uuid4(), datetime.now(UTC)
    last = max(run.claim for run in runs)
    row = {
        **{"id": task, "type": "long", "status": "completed", "claim": last, "attempts": 1, "lease_lost": 0},
        **{"max_attempts": None, "result_text": None, "error": None, "saved": False},
    }
    changes = []
    for claim in range(1, last + 1):
        changes += [
            Change(now, claim, "queued", "running", "a"),
            Change(now, claim, "running", "completed" if claim == last else "queued", "a"),
        ]
    charges = [Charge(claim, cause, "", now) for claim, cause in causes.items()]
    return History({task: row}, {task: changes}, {task: charges}, {task: list(runs)})


CUT = Run(1, begun=100.0, seen=130.0, replica=7)
"""Its process was killed, or has lost its claim and goes on."""
INTERRUPTED = {1: "interrupted"}


@pytest.mark.parametrize(
    ("second", "causes", "finding"),
    [
        pytest.param(Run(2, 131.0, 160.0, replica=8), INTERRUPTED, None, id="as promised"),
        pytest.param(Run(2, 122.0, 160.0, replica=8), INTERRUPTED, None, id="at once within the window"),
        pytest.param(
            Run(2, 110.0, 160.0, replica=8), INTERRUPTED, "at most 10 s are allowed", id="for too long"
        ),
        pytest.param(Run(2, 129.0, 160.0, replica=7), INTERRUPTED, "on one replica", id="on one replica"),
        pytest.param(
            Run(2, 131.0, 160.0, replica=8), {}, "began 2 times, without a recorded reason", id="no reason"
        ),
    ],
)
def test_runs_that_nothing_explains_and_runs_at_once_are_found(
    second: Run, causes: dict[int, str], finding: str | None
) -> None:
    history = with_runs(CUT, second, causes=causes)
    found = violations(history, dict.fromkeys(history.tasks, Expected("completed", 1)), overlap_s=10.0)
    if finding is None:
        assert found == []
    else:
        assert len(found) == 1
        assert finding in found[0]


def with_units(claim: int, *units: int, left: bool = False) -> Run:
    return Run(claim, begun=100.0 * claim, ended=100.0 * claim + 50, units=list(units), left=left)


@pytest.mark.parametrize(
    ("runs", "finding"),
    [
        pytest.param([with_units(1, 0, 1), with_units(2, 1, 2, 3)], None, id="the unit in hand again"),
        pytest.param([with_units(1, 0, 1), with_units(2, 2, 3)], None, id="saved before it died"),
        pytest.param(
            [with_units(1, 0, 1, 2), with_units(2, 1, 2, 3)], "did units 1 to 1 again", id="two again"
        ),
        pytest.param([with_units(1, 0), with_units(2, 2, 3)], "left out units 1 to 1", id="left out"),
        pytest.param([with_units(1, 0, 1), with_units(2, 1, 2)], "completed without units [3]", id="lost"),
        pytest.param([with_units(1, 0, 1), with_units(2, 2, 2, 3)], "out of order", id="twice in one run"),
        pytest.param(
            [with_units(1, 0, 1, left=True), with_units(2, 1, 2, 3)],
            "did units 1 to 1 again",
            id="it had left",
        ),
    ],
)
def test_units_that_are_done_again_or_never_are_found(runs: list[Run], finding: str | None) -> None:
    history = with_runs(*runs, causes=INTERRUPTED)
    found = violations(history, dict.fromkeys(history.tasks, Expected("completed", 1, units=4)))
    assert any(finding in line for line in found) if finding else not found, found


def test_what_handlers_wrote_is_read_back(tmp_path: Path) -> None:
    task = uuid4()
    lines = [
        "1 7 begin 100",
        "1 7 step 102",
        "1 7 told 103",
        "1 7 end 103.5",
        "2 8 begin 104",
        "2 8 step 106",
    ]
    (evidence := tmp_path / "evidence").write_text("".join(f"{task} {line}\n" for line in lines))
    [ended, cut] = runs_in(evidence)[task]
    assert (ended.span, ended.told, ended.replica) == ((100, 103.5), 103, 7)
    assert (cut.span, cut.ended, cut.replica) == ((104, 106), None, 8)
