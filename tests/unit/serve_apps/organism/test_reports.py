"""What handlers report while they run leaves the replica before their outcomes, and answers come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from contextvars import copy_context
from typing import Any

import pytest

from organism_flows.blocks.errors import StreamFull
from organism_flows.blocks.queue.wire import Batch, Outcomes
from organism_flows.blocks.task_report import Acknowledgement, Checkpoint, Chunks, Progress, TaskReport
from organism_flows.serve_apps.organism.execution import outcome_stream
from organism_flows.serve_apps.organism.handler_api import emitted_chunks
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism import reporting
from tests.support.organism.elsewhere import Elsewhere
from tests.support.organism.helpers import Result, batch, cancel_claims, organ, organism, run
from tests.support.stack import until

pytestmark = pytest.mark.anyio
HANDLERS = "tests.support.organism.reporting"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    reporting.GO.clear()
    reporting.CAUGHT.clear()
    yield
    reporting.GO.set()


def runs(handler: str, **more: Any) -> OrganismManager:
    return organism(organ("r", f"{HANDLERS}:{handler}", **more))


def restored(wire: dict[str, Any], *checkpoints: Checkpoint | None) -> dict[str, Any]:
    return {**wire, "checkpoints": list(checkpoints)}


class Reader:
    """Reads a call as a lane does: reports come before outcomes, and those that wait get an answer."""

    def __init__(self, manager: OrganismManager, *, problem: str | None = None, stale: bool = False) -> None:
        self.manager = manager
        self.problem = problem
        self.stale = stale
        self.result = Result()
        self.leaving = False
        self.reports: dict[int, TaskReport] = {}
        self.messages = 0
        self.first = asyncio.Event()
        self.unanswered = asyncio.Event()
        self.reaches = True
        """False once answers do not arrive: Serve sends nothing to a replica that it takes down."""

    async def waits_in_vain(self) -> None:
        """Return when a handler waits for an answer that does not reach it."""
        self.reaches = False
        await self.unanswered.wait()

    async def read(self, wire: dict[str, Any]) -> Result:
        async for message in self.manager.handle_tasks(wire):
            outcomes = Outcomes.from_wire(message)
            answers = {}
            self.messages += bool(outcomes.reports)
            self.leaving |= outcomes.leaving
            for report in outcomes.reports:
                assert report.position not in self.result.causes, "reported after its end"
                self.reports[report.position] = report.after(self.reports.get(report.position))
                if report.awaited:
                    answers[wire["claims"][report.position]] = Acknowledgement(
                        report.step, self.problem, self.stale
                    )
                self.first.set()
            self.result.add(message)
            if self.reaches:
                self.manager.acknowledge(answers)
            elif answers:
                self.unanswered.set()
        return self.result


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("handler", ["plain", "coroutine", "waiting"])
async def test_every_form_of_handler_saves_and_resumes(handler: str, processes: bool) -> None:
    manager = runs(handler, processes=processes)
    reader = Reader(manager)
    wire = batch(("r", {"units": 5}))
    assert (await reader.read(wire)).results == {0: {"began": 0}}
    assert reader.reports[0][:3] == (0, 5, "5")
    reader = Reader(manager)
    again = restored(batch(("r", {"units": 7})), Checkpoint(5, "5"))
    assert (await reader.read(again)).results == {0: {"began": 5}}
    assert reader.reports[0][:3] == (0, 7, "7")


async def test_reports_that_are_waited_for_share_messages_but_for_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outcome_stream, "AWAITED_S", 1.0)
    call = outcome_stream.BatchCall(Batch.from_wire(batch(*[("r", {})] * 4)), copy_context())
    async with aclosing(call.chunks()) as chunks:

        async def next_positions() -> list[int]:
            return [report.position for report in (await anext(chunks)).reports]

        async with asyncio.timeout(0.9):
            call.report_running(TaskReport(0, awaited=True))
            assert await next_positions() == [0]
        later = asyncio.create_task(next_positions())
        for position in (1, 2, 3):
            call.report_running(TaskReport(position, awaited=True))
            await asyncio.sleep(0.01)
        assert await later == [1, 2, 3]


@pytest.mark.parametrize("processes", [False, True])
async def test_each_task_of_a_handler_batch_has_a_context(processes: bool) -> None:
    manager = runs("batched", batch=True, max_batch_size=3, processes=processes)
    reader = Reader(manager)
    wire = batch(*(("r", {"name": f"n{n}"}) for n in range(3)))
    result = await reader.read(restored(wire, None, Checkpoint(4, '{"a": 1}'), None))
    assert result.results == {0: None, 1: {"a": 1}, 2: None}
    assert {position: report.state for position, report in reader.reports.items()} == {
        n: f'{{"of":"n{n}"}}' for n in range(3)
    }


@pytest.mark.parametrize("processes", [False, True])
async def test_what_cannot_be_saved_is_an_error_in_the_handler_and_the_task_goes_on(processes: bool) -> None:
    reader = Reader(runs("wrong", processes=processes))
    result = await reader.read(batch(("r", {})))
    said = result.results[0]
    for text, words in zip(said, ("NaN", "NUL", "set", "300,002 bytes", "None"), strict=True):
        assert text.startswith("state"), text
        assert words.lower() in text.lower()
    assert reader.reports[0].state == '"good"'


@pytest.mark.parametrize("processes", [False, True])
async def test_progress_never_raises(processes: bool) -> None:
    reader = Reader(runs("progressing", processes=processes))
    await reader.read(batch(("r", {})))
    assert reader.reports[0].progress == Progress(1.0, "last")


async def test_many_checkpoints_share_few_messages() -> None:
    reader = Reader(runs("plain"))
    await reader.read(batch(("r", {"units": 2000})))
    assert reader.reports[0].step == 2000
    assert reader.messages < 200


async def test_what_a_failing_handler_has_saved_comes_before_its_failure() -> None:
    reader = Reader(runs("fails"))
    result = await reader.read(batch(("r", {})))
    assert result.causes == {0: "failed"}
    assert reader.reports[0].state == '"before it fails"'


async def test_a_state_that_stays_the_same_is_no_step() -> None:
    reader = Reader(runs("idle"))
    await reader.read(batch(("r", {})))
    assert reader.reports[0].step == 1
    reader = Reader(runs("idle"))
    await reader.read(restored(batch(("r", {})), Checkpoint(1, '"first"')))
    assert reader.reports[0].step == 1, "it is where it began"


async def test_an_attempt_that_ignores_what_is_restored_begins_at_the_first_step() -> None:
    reader = Reader(runs("fails"))
    await reader.read(restored(batch(("r", {})), Checkpoint(9, '"far"')))
    assert reader.reports[0].step == 1


@pytest.mark.parametrize("processes", [False, True])
async def test_a_checkpoint_of_a_lost_claim_raises_stale_claim(processes: bool) -> None:
    reader = Reader(runs("waiting", processes=processes), problem="it went to another", stale=True)
    result = await reader.read(batch(("r", {"units": 3})))
    assert result.causes == {0: "failed"}
    assert "StaleClaim: it went to another" in str(result.errors[0])


async def test_a_checkpoint_that_the_database_refuses_is_an_error_of_the_handler() -> None:
    reader = Reader(runs("coroutine"), problem="Postgres cannot store the state: no")
    result = await reader.read(batch(("r", {"units": 3})))
    assert "OSError: Postgres cannot store the state: no" in str(result.errors[0])


async def test_nothing_is_saved_after_the_end() -> None:
    manager = runs("stuck")
    reader = Reader(manager)
    reading = asyncio.create_task(reader.read(batch(("r", {}))))
    await reader.first.wait()
    assert cancel_claims(manager, 100) == [100]
    assert (await reading).causes == {0: "cancelled"}
    reporting.GO.set()
    await until(lambda: reporting.CAUGHT)
    assert "claim 100 has ended" in reporting.CAUGHT[0]
    assert reader.reports[0].state == '"before"'


async def test_a_plain_function_that_waits_is_let_go_when_its_task_is_cancelled() -> None:
    manager = runs("waiting")
    messages = manager.handle_tasks(batch(("r", {"units": 1})))
    async for message in messages:
        outcomes = Outcomes.from_wire(message)
        if any(report.awaited for report in outcomes.reports):
            cancel_claims(manager, 100)
    await until(lambda: manager.status()["organs"]["r"]["abandoned"] == 0)


async def test_a_task_past_the_queue_waits_for_nothing() -> None:
    outcome = await runs("coroutine").handle_incoming_task({"type": "r", "params": {"units": 3}})
    assert outcome["result"] == {"began": 0}


async def test_reports_of_an_organ_apart_come_through_and_answers_go_there() -> None:
    config = {
        "organs": [organ("r", f"{HANDLERS}:waiting", deployment={})],
        "default_timeout_s": 60,
    }
    elsewhere = Elsewhere(config, "r")
    manager = OrganismManager(config, connect=lambda _: elsewhere)
    reader = Reader(manager)
    wire = restored(batch(("echo", {}), ("r", {"units": 4})), None, Checkpoint(2, "2"))
    result = await reader.read(wire)
    assert result.results[1] == {"began": 2}
    assert reader.reports[1][:3] == (1, 4, "4")


async def test_a_handler_that_reports_nothing_sends_no_report() -> None:
    manager = organism()
    result = await run(manager, batch(("echo", {}), ("echo", {})))
    assert set(result.causes.values()) == {"completed"}


def planning() -> OrganismManager:
    return organism(
        organ("planner", "plan"),
        organ("r", f"{HANDLERS}:coroutine"),
        organ("fails", f"{HANDLERS}:fails"),
        organ("seen", "double"),
        escalation={"drift_score": 1.0, "planner": "planner"},
    )


def escalated(*steps: dict[str, Any], parallel: bool = False) -> dict[str, Any]:
    wire = batch(("r", {"plan": {"steps": list(steps), "parallel": parallel}}))
    return {**wire, "drift_scores": [1.0]}


@pytest.mark.parametrize("parallel", [False, True])
async def test_an_escalated_task_continues_with_the_step_that_had_saved_something(parallel: bool) -> None:
    steps = [
        {"organ": "seen", "params": {"n": 4}},
        {"organ": "r", "params": {"units": 3}},
        {"organ": "fails", "params": {}},
    ]
    manager = planning()
    reader = Reader(manager)
    first = await reader.read(escalated(*steps, parallel=parallel))
    assert first.causes == {0: "failed"}
    saved = reader.reports[0]
    assert saved.state is not None
    again = restored(escalated(*steps, parallel=parallel), Checkpoint(saved.step, saved.state))
    reader = Reader(manager)
    await reader.read(again)
    organs = manager.status()["organs"]
    assert organs["planner"]["completed"] == 1, "the plan was kept"
    assert organs["seen"]["completed"] == 1, "so was the result of a step"
    assert organs["r"]["completed"] == 1
    assert organs["fails"]["failed"] == 2
    assert reader.reports[0].step == saved.step, "it got no further"


async def test_a_step_gets_what_it_has_saved_and_waits_for_what_it_saves() -> None:
    manager = planning()
    reader = Reader(manager)
    plan = {"steps": [{"organ": "r", "params": {"units": 5}}]}
    state = {
        "ended": {"0": {"organ": "planner", "type": "r", "result": plan, "elapsed_ms": 1.0}},
        "states": {"1": 2},
        "counts": {"1": 2},
    }
    wire = restored(escalated({"organ": "seen", "params": {"n": 1}}), Checkpoint(3, json.dumps(state)))
    result = await reader.read(wire)
    assert result.results[0]["steps"][0]["result"] == {"began": 2}
    assert reader.reports[0].step == 7, "the planner, five units, and the end of the step"


async def test_a_plan_whose_results_are_too_large_to_save_is_a_problem_of_the_step_that_waits() -> None:
    manager = planning()
    wire = escalated({"type": "echo", "params": {"x": "y" * 300_000}}, {"organ": "r", "params": {"units": 1}})
    result = await Reader(manager).read(wire)
    assert "the plan with the results of its steps is 600," in str(result.errors[0])


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("handler", ["leaves", "leaves_thread", "unaware"])
async def test_a_handler_leaves_in_time_and_hands_its_state_on(handler: str, processes: bool) -> None:
    manager = runs(handler, processes=processes, drain_s=600)
    reader = Reader(manager)
    reading = asyncio.create_task(reader.read(batch(("r", {}))))
    await reader.first.wait()
    if handler == "unaware":
        await asyncio.wait_for(reader.waits_in_vain(), 60)
    manager.drain()
    result = await asyncio.wait_for(reading, 60)
    assert result.causes == {0: "interrupted"}
    assert reader.leaving, "if the replica had died instead, the lane would know that it was leaving"
    assert reader.reports[0].state is not None, "saved before it was handed back"
    if handler != "unaware":
        assert reader.reports[0].state == '"left in time"'


async def test_an_organ_apart_is_asked_to_leave_with_the_replica_that_sent_its_tasks() -> None:
    config = {"organs": [organ("r", f"{HANDLERS}:leaves", deployment={}, drain_s=600)]}
    elsewhere = Elsewhere(config, "r")
    manager = OrganismManager(config, connect=lambda _: elsewhere)
    reader = Reader(manager)
    reading = asyncio.create_task(reader.read(batch(("r", {}))))
    await reader.first.wait()
    manager.drain()
    result = await asyncio.wait_for(reading, 60)
    assert result.causes == {0: "interrupted"}
    assert reader.reports[0].state == '"left in time"'


async def test_a_step_of_a_plan_is_asked_to_leave() -> None:
    manager = organism(
        organ("planner", "plan"),
        organ("r", f"{HANDLERS}:leaves", drain_s=600),
        escalation={"drift_score": 1.0, "planner": "planner"},
    )
    reader = Reader(manager)
    reading = asyncio.create_task(reader.read(escalated({"organ": "r", "params": {}})))
    await reader.first.wait()
    manager.drain()
    result = await asyncio.wait_for(reading, 60)
    assert result.causes == {0: "interrupted"}
    assert '"left in time"' in str(reader.reports[0].state)


@pytest.mark.parametrize("processes", [False, True])
async def test_a_handler_that_leaves_without_need_has_failed(processes: bool) -> None:
    result = await run(runs("without_need", processes=processes), batch(("r", {})))
    assert result.causes == {0: "failed"}
    assert "without need: MustLeave: I want to" in str(result.errors[0])


# What handlers emit


def emitted(reader: Reader, position: int = 0) -> list[str]:
    chunks = reader.reports[position].chunks
    assert chunks is not None
    return list(chunks.texts)


def units(count: int) -> list[str]:
    return [f'{{"unit":{unit}}}' for unit in range(count)]


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("handler", ["emits", "emits_coroutine"])
async def test_every_form_of_handler_emits_in_order(handler: str, processes: bool) -> None:
    reader = Reader(runs(handler, processes=processes))
    await reader.read(batch(("r", {"units": 300})))
    assert emitted(reader) == units(300)
    assert reader.messages < 100, "they leave together"


@pytest.mark.parametrize("processes", [False, True])
async def test_each_task_of_a_handler_batch_has_a_stream(processes: bool) -> None:
    reader = Reader(runs("emits_batched", batch=True, max_batch_size=3, processes=processes))
    await reader.read(batch(*(("r", {"units": n}) for n in (1, 2, 3))))
    assert [emitted(reader, n) for n in range(3)] == [units(1), units(2), units(3)]


@pytest.mark.parametrize("processes", [False, True])
async def test_a_task_that_is_run_again_alone_begins_its_stream_again(processes: bool) -> None:
    reader = Reader(runs("emits_batched", batch=True, max_batch_size=2, processes=processes))
    result = await reader.read(batch(*(("r", {"units": 3, "fails": True}) for _ in range(2))))
    assert set(result.causes.values()) == {"completed"}
    assert [emitted(reader, n) for n in range(2)] == [units(3)] * 2


def test_the_lane_numbers_the_chunks_of_a_claim() -> None:
    first = Chunks(("a", "b"), anew=True).numbered(None)
    assert (first.run_begin, first.last) == (0, 2)
    second = Chunks(("c",)).numbered(first)
    assert (second.run_begin, second.last) == (0, 3)
    again = Chunks(("d",), anew=True).numbered(second)
    assert (again.run_begin, again.last) == (4, 5), "the begin has a number of its own"


@pytest.mark.parametrize("processes", [False, True])
async def test_what_cannot_be_kept_is_an_error_that_a_handler_may_catch(processes: bool) -> None:
    reader = Reader(runs("emits_too_much", processes=processes))
    result = await reader.read(batch(("r", {})))
    nan, nul, large, full = result.results[0]
    assert "chunk is NaN" in nan
    assert "NUL" in nul
    assert large == "chunk is 70,002 bytes of JSON, more than the limit of 64,000"
    assert "the stream has 66 chunks of 3,960,132 bytes; one more of 60,002 bytes exceeds its limit" in full
    assert len(emitted(reader)) == 67
    assert emitted(reader)[-1] == '"small"', "a smaller one has room"


def test_a_stream_has_a_number_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emitted_chunks, "CHUNKS_LIMIT", 2)
    chunks = emitted_chunks.EmittedChunks()
    chunks.add("1")
    chunks.add("2")
    with pytest.raises(StreamFull, match="2 chunks"):
        chunks.add("3")


async def test_nothing_is_emitted_after_the_end() -> None:
    manager = runs("emits_late")
    reader = Reader(manager)
    reading = asyncio.create_task(reader.read(batch(("r", {}))))
    await reader.first.wait()
    assert cancel_claims(manager, 100) == [100]
    assert (await reading).causes == {0: "cancelled"}
    reporting.GO.set()
    await until(lambda: reporting.CAUGHT)
    assert emitted(reader) == ['"before"']


async def test_a_handler_learns_that_its_claim_is_stale_without_waiting_for_anything() -> None:
    manager = runs("emits_late")
    messages = manager.handle_tasks(batch(("r", {})))
    async for message in messages:
        if Outcomes.from_wire(message).reports:
            manager.acknowledge({100: Acknowledgement(0, "claim 100 is no longer the newest", stale=True)})
            reporting.GO.set()
    assert "claim 100 has ended" in reporting.CAUGHT[0]


async def test_chunks_of_an_organ_apart_come_through() -> None:
    config = {"organs": [organ("r", f"{HANDLERS}:emits", deployment={})]}
    elsewhere = Elsewhere(config, "r")
    reader = Reader(OrganismManager(config, connect=lambda _: elsewhere))
    await reader.read(batch(("r", {"units": 20})))
    assert emitted(reader) == units(20)


@pytest.mark.parametrize("parallel", [False, True])
async def test_the_steps_of_a_plan_share_the_stream_of_their_task(parallel: bool) -> None:
    manager = organism(
        organ("planner", "plan"),
        organ("r", f"{HANDLERS}:emits"),
        escalation={"drift_score": 1.0, "planner": "planner"},
    )
    reader = Reader(manager)
    steps = [{"organ": "r", "params": {"units": 3}}, {"organ": "r", "params": {"units": 2}}]
    await reader.read(escalated(*steps, parallel=parallel))
    chunks = reader.reports[0].chunks
    assert chunks is not None
    assert sorted(chunks.texts) == sorted(units(3) + units(2))
    assert not chunks.anew
    if not parallel:
        assert list(chunks.texts) == units(3) + units(2)


async def test_chunks_of_a_step_stay_when_its_state_cannot_be_saved() -> None:
    manager = organism(
        organ("planner", "plan"),
        organ("r", f"{HANDLERS}:emits_and_saves"),
        escalation={"drift_score": 1.0, "planner": "planner"},
    )
    reader = Reader(manager)
    await reader.read(escalated({"organ": "r", "params": {"size": 255_990}}))
    assert emitted(reader) == ['"a chunk"']


async def test_steps_that_are_run_again_alone_emit_once_and_keep_what_others_have_emitted() -> None:
    manager = organism(
        organ("planner", "plan"),
        organ("r", f"{HANDLERS}:emits"),
        organ("b", f"{HANDLERS}:emits_and_fails_together", batch=True, max_batch_size=2),
        escalation={"drift_score": 1.0, "planner": "planner"},
    )
    reader = Reader(manager)
    together = [{"organ": "b", "params": {"name": name}} for name in ("p", "q")]
    steps = [{"organ": "r", "params": {"units": 2}}, *together]
    reading = asyncio.create_task(reader.read(escalated(*steps, parallel=True)))
    await until(lambda: reader.reports and len(emitted(reader)) == 4)
    reporting.GO.set()
    await asyncio.wait_for(reading, 60)
    assert sorted(emitted(reader)) == sorted([*units(2), '"p"', '"q"'])
    chunks = reader.reports[0].chunks
    assert chunks is not None
    assert chunks.anew, "whoever reads it sees that it begins again"
