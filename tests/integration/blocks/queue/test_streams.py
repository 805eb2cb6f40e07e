"""What handlers emit: written under the claim, in order, and read by place."""

from __future__ import annotations

from uuid import UUID

import pytest

from organism_flows.blocks.queue import Batch, NewTask, Queue
from organism_flows.blocks.queue.models.streams import StreamBegin, StreamChunk, StreamPlace
from organism_flows.blocks.queue.stores import reader
from organism_flows.blocks.task_report import Chunks, TaskReport
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def still(queue: Queue) -> None:
    await set_clock(queue, START)


async def run(queue: Queue) -> Batch:
    await queue.submit([NewTask(type="t")])
    return await claim(queue)


async def emit(queue: Queue, batch: Batch, *texts: str, run_begin: int = 0, last: int) -> bool:
    """Emit chunks as a lane writes them; return True if the claim was not stale."""
    chunks = Chunks(texts, run_begin=run_begin, last=last)
    return batch.claims[0] in (await queue.reports.record(batch, [TaskReport(chunks=chunks)])).further


async def read(queue: Queue, batch: Batch, claim: int = 0, number: int = 0) -> list[str]:
    """Read the whole stream after a place: chunks as text, begins as `begin CLAIM.NUMBER`."""
    place, seen = StreamPlace(UUID(batch.ids[0]), claim, number), []
    while True:
        part = (await queue.reader.streams([place]))[place]
        for event in part.events(place):
            match event:
                case StreamBegin(claim, number):
                    seen.append(f"begin {claim}.{number}")
                case StreamChunk(claim, number, text):
                    seen.append(text)
            place = place._replace(claim=event.claim, number=event.number)
        if not part.stored:
            return seen


async def test_a_reader_goes_on_anywhere_and_sees_each_chunk_once(queue: Queue) -> None:
    batch = await run(queue)
    [mine] = batch.claims
    assert await read(queue, batch) == [f"begin {mine}.0"]
    assert await emit(queue, batch, '"a"', '{"b": 1}', last=2)
    assert await emit(queue, batch, "3", "null", last=4)
    everything = ['"a"', '{"b": 1}', "3", "null"]
    assert await read(queue, batch) == [f"begin {mine}.0", *everything]
    for number in range(5):
        assert await read(queue, batch, mine, number) == everything[number:], number


async def test_what_is_written_twice_is_there_once(queue: Queue) -> None:
    """The answer to a statement may be lost."""
    batch = await run(queue)
    for _ in range(2):
        assert await emit(queue, batch, "1", "2", last=2)
    assert await read(queue, batch, batch.claims[0]) == ["1", "2"]


async def test_a_stale_claim_emits_nothing(queue: Queue) -> None:
    stale = await run(queue)
    assert await emit(queue, stale, '"old"', last=1)
    await queue.claims.release("lane", stale, cause="interrupted", error="")
    assert not await emit(queue, stale, '"handed back"', last=2)
    newest = await claim(queue)
    assert not await emit(queue, stale, '"claimed again"', last=2)
    await queue.claims.settle("lane", newest, outcomes_of(newest, "completed", result="1"))
    assert not await emit(queue, newest, '"settled"', last=1)
    assert await pool_of(queue).fetchval("SELECT string_agg(chunks::text, '') FROM task_chunks") == '["old"]'


async def test_a_later_attempt_takes_the_place_of_the_one_before(queue: Queue) -> None:
    first = await run(queue)
    [old] = first.claims
    await emit(queue, first, '"old"', last=1)
    await queue.claims.settle("lane", first, outcomes_of(first, "failed", error="boom"))
    assert await read(queue, first, old) == ['"old"'], "until another attempt begins"
    await advance(queue, 600)
    second = await claim(queue)
    [new] = second.claims
    assert await read(queue, first, old, 1) == [f"begin {new}.0"], "visibly, before its first chunk"
    await emit(queue, second, '"new"', last=1)
    await emit(queue, second, '"newer"', last=2)
    assert await read(queue, first, old, 1) == [f"begin {new}.0", '"new"', '"newer"']
    assert await pool_of(queue).fetchval("SELECT count(DISTINCT claim) FROM task_chunks") == 1


async def test_a_second_run_under_one_claim_begins_again_too(queue: Queue) -> None:
    batch = await run(queue)
    [mine] = batch.claims
    await emit(queue, batch, '"a"', '"b"', last=2)
    await emit(queue, batch, '"c"', run_begin=3, last=4)
    for seen in (0, 1, 2):
        assert await read(queue, batch, mine, seen) == [f"begin {mine}.3", '"c"'], seen
    assert await read(queue, batch, mine, 3) == ['"c"']


async def test_long_streams_are_read_in_parts(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "STREAM_PARTS", 3)
    monkeypatch.setattr(reader, "STREAM_BYTES", 100)
    batch = await run(queue)
    [mine] = batch.claims
    for number in range(1, 8):
        await emit(queue, batch, f'"{str(number) * 60}"', last=number)
    place = StreamPlace(UUID(batch.ids[0]), mine)
    assert len((await queue.reader.streams([place]))[place].stored) == 2
    assert [text[1] for text in await read(queue, batch, mine)] == list("1234567")


async def test_one_statement_reads_for_many_places(queue: Queue) -> None:
    ids = await queue.submit([NewTask(type="t")] * 2)
    batch = await claim(queue)
    for position in (0, 1):
        await emit(queue, batch.take([position]), "1", "2", last=2)
    gone = UUID(int=1)
    places = [StreamPlace(ids[0]), StreamPlace(ids[1]), StreamPlace(ids[1], 1, 1), StreamPlace(gone)]
    assert set(await queue.reader.streams(places)) == set(places[:3])


async def test_chunks_go_with_their_task(queue: Queue) -> None:
    batch = await run(queue)
    await emit(queue, batch, "1", last=1)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
    await advance(queue, 600)
    await queue.maintenance.prune("completed", older_than_s=60)
    assert await pool_of(queue).fetchval("SELECT count(*) FROM task_chunks") == 0


async def test_a_task_that_only_emits_has_no_row_of_progress(queue: Queue) -> None:
    batch = await run(queue)
    await emit(queue, batch, "1", last=1)
    assert (await queue.get(batch.ids[0])).progress is None
