"""The three failures of Ray's page on asynchronous inference, with a real lane, queue and organism.

https://docs.ray.io/en/latest/serve/asynchronous-inference.html, "Resume work from checkpoints".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from uuid import UUID

import pytest

from organism_flows.blocks.queue import NewTask, Outcomes, Queue
from organism_flows.blocks.queue.models.streams import StreamBegin, StreamChunk, StreamPlace
from organism_flows.flows.lanes import lease
from organism_flows.flows.lanes.lane import Lane
from organism_flows.serve_apps.gateway.stream_watcher import StreamWatcher
from tests.support.flows import units
from tests.support.flows.running_lanes import nothing_left_behind
from tests.support.local_organism import LocalOrganism
from tests.support.sql import edit_statements
from tests.support.stack import until

pytestmark = pytest.mark.anyio
TIMEOUT = 240
"""Seconds after which something hangs."""
CONFIG = {
    "organs": [
        {
            "id": "w",
            "task_types": ["w"],
            "handler": "tests.support.flows.units:work",
            "suspects": "replica",
            "version": "2026-11",
        },
        {
            "id": "emits",
            "task_types": ["emits"],
            "handler": "tests.support.flows.units:emit",
            "suspects": "replica",
        },
        {"id": "once", "task_types": ["once"], "handler": "tests.support.flows.units:once"},
    ],
    "default_timeout_s": 120,
}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    units.reset()
    yield
    units.reset()


@pytest.fixture
async def queue(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Queue]:
    # A lease that no machine is too slow for, and yet a heartbeat every 0.5 s.
    monkeypatch.setattr(lease, "RENEWALS_A_LEASE", 120)
    async with Queue(database, lease_s=60, backoff_base_s=0.02, backoff_cap_s=0.1) as queue:
        yield queue


def once(when: Callable[[int], bool], act: Callable[[], object]) -> Callable[[int], None]:
    """Act the first time that ``when`` is true of a unit."""
    left = [1]

    def called(unit: int) -> None:
        if left and when(unit):
            left.clear()
            act()

    return called


async def run(queue: Queue, organism: LocalOrganism, *, tasks: int = 1, units: int = 6) -> list[str]:
    ids = await queue.submit([NewTask(type="w", params={"units": units})] * tasks)
    await asyncio.wait_for(Lane(queue, organism, until_empty=True).run(), TIMEOUT)
    await nothing_left_behind(queue)
    return [str(i) for i in ids]


async def test_a_crash_between_a_unit_and_its_checkpoint_repeats_that_unit_only(queue: Queue) -> None:
    organism = LocalOrganism(CONFIG)
    units.after_unit = once(lambda unit: unit == 3, organism.kill)
    [task_id] = await run(queue, organism)
    assert units.RESUMED == [0, 3]
    assert {unit: units.DONE[task_id, unit] for unit in range(6)} == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1}
    task = await queue.get(task_id)
    assert (task.status, task.attempts, task.suspicion) == ("completed", 1, 0)
    assert task.handler_version == "2026-11"
    [lost] = task.history
    assert (lost.cause, lost.handler_version, lost.resumed_step) == ("replica_lost", "2026-11", None)
    assert lost.reached_step == 3


async def test_a_crash_between_a_checkpoint_and_its_acknowledgement_repeats_nothing(queue: Queue) -> None:
    organism = LocalOrganism(CONFIG)
    acknowledge = organism.acknowledge

    async def dies_first(saved: object) -> None:
        organism.acknowledge = acknowledge  # type: ignore[method-assign]
        organism.kill()

    units.after_checkpoint = once(
        lambda unit: unit == 2, lambda: setattr(organism, "acknowledge", dies_first)
    )
    [task_id] = await run(queue, organism)
    assert organism.deaths == 1
    assert units.RESUMED == [0, 4]
    assert {units.DONE[task_id, unit] for unit in range(6)} == {1}


async def test_a_redelivery_after_the_result_was_published_repeats_nothing(queue: Queue) -> None:
    organism = LocalOrganism(CONFIG)
    lost: list[object] = []

    def with_the_result(outcomes: Outcomes) -> bool:
        """The replica dies when it has sent the result, and before the lane has it."""
        if lost or not len(outcomes):
            return False
        lost.append(outcomes.results)
        return True

    organism.loses = with_the_result
    [task_id] = await run(queue, organism)
    assert lost
    assert units.RESUMED == [0, 6], "the second attempt finds that every unit is done"
    assert {units.DONE[task_id, unit] for unit in range(6)} == {1}
    assert (await queue.get(task_id)).result == 6


async def test_many_tasks_under_random_deaths_repeat_only_what_was_in_flight(queue: Queue) -> None:
    organism = LocalOrganism(CONFIG)
    in_flight = [0]
    seen = [0]

    def sometimes(unit: int) -> None:
        seen[0] += 1
        if seen[0] % 17 == 0:
            in_flight[0] += 12
            organism.kill()

    units.after_unit = sometimes
    ids = await run(queue, organism, tasks=12, units=8)
    assert organism.deaths >= 3
    again = sum(units.DONE.values()) - 12 * 8
    assert again <= in_flight[0], "each death may repeat the unit in hand of each task, and no more"
    assert set(units.DONE) == {(task_id, unit) for task_id in ids for unit in range(8)}
    assert (await queue.reader.counts())["completed"] == 12


async def test_the_check_sees_a_queue_that_gives_no_checkpoint_back(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_statements(monkeypatch, {"restored"}, "saved.state IS NOT NULL", "false")
    organism = LocalOrganism(CONFIG)
    units.after_unit = once(lambda unit: unit == 3, organism.kill)
    [task_id] = await run(queue, organism)
    assert units.RESUMED == [0, 0]
    assert units.DONE[task_id, 0] == 2


async def test_what_a_handler_saves_just_before_it_fails_is_there_for_the_next_attempt(queue: Queue) -> None:
    [task_id] = await queue.submit([NewTask(type="once")])
    await asyncio.wait_for(Lane(queue, LocalOrganism(CONFIG), until_empty=True).run(), TIMEOUT)
    task = await queue.get(str(task_id))
    assert (task.status, task.attempts, task.result) == ("completed", 2, "first")
    assert task.progress is not None
    assert (task.progress.fraction, task.progress.note) == (0.5, "first")
    [failed] = task.history
    assert failed.reached_step == 1
    assert failed.handler_version is None, "it is in neither folder of the configuration nor a package"


async def test_a_replica_that_is_taken_down_repeats_nothing_and_charges_nobody(queue: Queue) -> None:
    organism = LocalOrganism(CONFIG)
    units.after_unit = once(lambda unit: unit == 2, organism.replace)
    ids = await run(queue, organism, tasks=6)
    assert len(units.RESUMED) > 6, "some had to leave"
    assert set(units.DONE.values()) == {1}
    for task_id in ids:
        task = await queue.get(task_id)
        assert (task.status, task.attempts, task.suspicion) == ("completed", 1, 0)
        assert {attempt.cause for attempt in task.history} <= {"interrupted"}


async def test_a_lane_that_leaves_with_its_node_repeats_nothing_and_charges_nobody(queue: Queue) -> None:
    organism = LocalOrganism(CONFIG)
    ids = await queue.submit([NewTask(type="w", params={"units": 40})] * 6)
    leaving = Lane(queue, organism)
    units.after_unit = once(lambda unit: unit == 2, lambda: leaving.leave(within_s=TIMEOUT))
    await asyncio.wait_for(leaving.run(), TIMEOUT)
    assert (await queue.reader.counts())["completed"] < 6, "it did not wait for their ends"
    await asyncio.wait_for(Lane(queue, organism, until_empty=True).run(), TIMEOUT)
    assert set(units.DONE.values()) == {1}
    assert len(units.DONE) == 6 * 40
    for task_id in ids:
        task = await queue.get(str(task_id))
        assert (task.status, task.attempts, task.suspicion) == ("completed", 1, 0)
        assert {attempt.cause for attempt in task.history} <= {"interrupted"}


class Readers:
    """Readers of streams: the gateway of each is gone after so many parts, and another takes its place."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.at: dict[tuple[UUID, int], StreamPlace] = {}
        """Where each is, by task and number of parts."""

    async def read(self, task_id: UUID, parts: int) -> list[StreamBegin | StreamChunk]:
        """Read a stream to its end."""
        place, seen = StreamPlace(task_id), list[StreamBegin | StreamChunk]()
        while True:
            async with (
                StreamWatcher(self.queue.reader.streams) as streams,
                aclosing(streams.parts(place)) as stream,
            ):
                for _ in range(parts):
                    before, part = await anext(stream)
                    assert part is not None
                    for event in part.events(before):
                        seen.append(event)
                        place = StreamPlace(task_id, event.claim, event.number)
                    self.at[task_id, parts] = place
                    if part.ended:
                        return seen


async def test_readers_see_each_chunk_of_the_last_attempt_once_whatever_dies(queue: Queue) -> None:
    organism, readers = LocalOrganism(CONFIG), Readers(queue)
    ids = await queue.submit([NewTask(type="emits", params={"units": 8, "pause_at": 3})] * 3)
    reading = [asyncio.create_task(readers.read(task_id, parts)) for task_id in ids for parts in (1, 3)]
    lane = asyncio.create_task(Lane(queue, organism, until_empty=True).run())
    await until(lambda: [place.number for place in readers.at.values()] == [4] * 6, patience=TIMEOUT)
    organism.kill()
    units.go_on.set()
    await asyncio.wait_for(lane, TIMEOUT)
    for events in await asyncio.wait_for(asyncio.gather(*reading), TIMEOUT):
        first, last = (n for n, event in enumerate(events) if isinstance(event, StreamBegin))
        assert [event.value for event in events[first + 1 : last] if isinstance(event, StreamChunk)] == [
            *range(4)
        ]
        chunks = [event for event in events[last:] if isinstance(event, StreamChunk)]
        assert [chunk.value for chunk in chunks] == [*range(8)]
        assert {chunk.claim for chunk in chunks} == {events[last].claim}
