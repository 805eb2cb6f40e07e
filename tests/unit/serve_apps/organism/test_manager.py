"""The organism in one process: every way a handler can misbehave, with neighbours that complete."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.serve_apps.organism import replica_report
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism import misbehaviour
from tests.support.organism.held_timeouts import HeldTimeouts
from tests.support.organism.helpers import Result, batch, in_flight, organ, organism, run

pytestmark = pytest.mark.anyio

NEIGHBOURS = 20


def with_neighbours(*rows: Any) -> dict[str, Any]:
    """The rows, then neighbours that must complete."""
    return batch(*rows, *[("echo", {"n": n}) for n in range(NEIGHBOURS)])


def check_neighbours(result: Result, first: int) -> None:
    for n in range(NEIGHBOURS):
        assert result.causes[first + n] == "completed"
        assert result.results[first + n] == {"n": n}


@pytest.mark.parametrize("form", ["raise_async", "raise_plain"])
async def test_whatever_a_handler_raises_is_its_own_failure(form: str) -> None:
    manager = organism(organ("raise", form))
    names = list(misbehaviour.ODDITIES)
    result = await run(manager, with_neighbours(*[("raise", {"what": name}) for name in names]))
    check_neighbours(result, len(names))
    permanent = {"marked", "not_implemented"}
    for position, name in enumerate(names):
        assert result.causes[position] == ("rejected" if name in permanent else "failed"), name
        error = result.errors[position] or ""
        assert len(error) < 2500
        assert "\x00" not in error
        error.encode()
        assert "misbehaviour.py:" in error or "stop" in name, error
    assert "ValueError: bad value" in (result.errors[names.index("value_error")] or "")
    assert "ValueError: inner" in (result.errors[names.index("group")] or "")
    assert in_flight(manager) == 0
    await manager.check_health()


@pytest.mark.parametrize("form", ["garbage_async", "garbage_plain"])
async def test_whatever_a_handler_returns_is_stored_or_refused(form: str) -> None:
    manager = organism(organ("garbage", form))
    names = list(misbehaviour.GARBAGE)
    result = await run(manager, with_neighbours(*[("garbage", {"what": name}) for name in names]))
    check_neighbours(result, len(names))
    for position, name in enumerate(names):
        assert result.causes[position] == "rejected", name
        assert "the result cannot be stored: $" in (result.errors[position] or "")
    assert "$.rows[0].score is NaN" in (result.errors[0] or "")


async def test_what_cannot_be_run_is_rejected_with_the_reason() -> None:
    manager = organism()
    result = await run(
        manager,
        with_neighbours(
            ("code.metric", {}),
            ("echo", "{not json"),
            ("echo", {}, -1.0),
            ("echo", {}, float("nan")),
            ("sleep", {}),
            ("sleep", {"seconds": "two"}),
            ("echo", "[1]"),
            ("code.metrics", {}),
            ("echo", "[" * 2000),
            ("count", {"seconds": 1}),
            ("count", {"to": 0.5, "seconds": 1}),
        ),
    )
    check_neighbours(result, 11)
    expected = [
        "no organ serves type 'code.metric'; nearest known: code.metrics",
        "params is not JSON",
        "timeout is -1.0",
        "timeout is nan",
        "params.seconds is missing",
        "params.seconds is 'two'",
        "params is a list",
        "params.path is missing",
        "params is not JSON",
        "params.to is missing",
        "params.to is 0.5, not a whole number from 1 to 1000000",
    ]
    for position, words in enumerate(expected):
        assert result.causes[position] == "rejected"
        assert words in (result.errors[position] or "")


@pytest.mark.parametrize("form", ["block", "step"])
async def test_a_handler_that_hangs_is_timed_out_at_once(form: str, timeouts: HeldTimeouts) -> None:
    manager = organism(organ("hang", form, concurrency=1, timeout_s=0.05))
    wire = with_neighbours(("hang", {"name": "a"}), ("hang", {"name": "b"}))
    result = await timeouts.outlived(manager, wire, "hang")
    check_neighbours(result, 2)
    for position in (0, 1):
        assert result.causes[position] == "timed_out"
        assert "timed out after 0.05 s" in (result.errors[position] or "")
        assert f"in {form}" in (result.errors[position] or "")
    assert in_flight(manager) == 0


async def test_the_tasks_own_timeout_is_used_first() -> None:
    manager = organism(organ("hang", "step", timeout_s=60))
    result = await run(manager, batch(("hang", {"name": "a"}, 0.02)))
    assert "timed out after 0.02 s" in (result.errors[0] or "")


async def test_hanging_threads_are_counted_and_end_the_replica(
    monkeypatch: pytest.MonkeyPatch, timeouts: HeldTimeouts
) -> None:
    monkeypatch.setattr(replica_report, "ABANDONED_LIMIT", 3)
    manager = organism(organ("hang", "block", concurrency=2, timeout_s=0.01))
    await timeouts.outlived(manager, batch(*[("hang", {})] * 3), "hang")
    assert manager.status()["organs"]["hang"]["abandoned"] == 3
    await manager.check_health()
    await timeouts.outlived(manager, {**batch(("hang", {})), "ids": ["another"]}, "hang")
    with pytest.raises(RuntimeError, match="4 handler calls hang"):
        await manager.check_health()
    assert manager.health()["status"] == "unhealthy"
    misbehaviour.RELEASE.set()
    while manager.status()["organs"]["hang"]["abandoned"]:
        await anyio.lowlevel.checkpoint()
    await manager.check_health()
    assert (await run(manager, batch(("hang", {})))).results[0] == "released"


async def test_a_handler_that_ignores_cancellation_loses_its_slot_not_its_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("organism_flows.serve_apps.organism.execution.local.local_organ.LINGER_S", 0.02)
    manager = organism(organ("stubborn", "stubborn", concurrency=1, timeout_s=0.02))
    result = await run(manager, with_neighbours(("stubborn", {}), ("stubborn", {})))
    check_neighbours(result, 2)
    assert result.causes[0] == result.causes[1] == "timed_out"
    misbehaviour.RELEASE.set()
    while manager.status()["organs"]["stubborn"]["abandoned"]:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("form", ["batch", "batch_async"])
async def test_batch_handlers(form: str) -> None:
    manager = organism(organ("b", form, batch=True, max_batch_size=10))
    result = await run(manager, batch(*[("b", {"name": f"n{n}"}) for n in range(25)]))
    assert [result.results[n]["of"] for n in range(25)] == [10] * 20 + [5] * 5
    assert misbehaviour.STARTED["batch"] == 3


@pytest.mark.parametrize("bad", ["raise", "short", "no_list"])
async def test_a_batch_that_fails_charges_only_its_culprit(bad: str) -> None:
    manager = organism(organ("b", "batch", batch=True))
    names = ["a", bad, "c", "item", "d"]
    result = await run(manager, with_neighbours(*[("b", {"name": name}) for name in names]))
    check_neighbours(result, 5)
    assert [result.causes[n] for n in range(5)] == ["completed", "failed", "completed", "failed", "completed"]
    assert "ValueError: mine alone" in (result.errors[3] or "")


async def test_an_exception_in_the_list_is_one_tasks_failure() -> None:
    manager = organism(organ("b", "batch", batch=True))
    result = await run(manager, batch(("b", {"name": "a"}), ("b", {"name": "item"}), ("b", "nonsense")))
    assert [result.causes[n] for n in range(3)] == ["completed", "failed", "rejected"]
    assert misbehaviour.STARTED["batch"] == 1


async def test_forms_of_handlers() -> None:
    manager = organism(
        organ("class", "Counting", concurrency=1),
        organ("class_async", "CountingAsync"),
        organ("instance", "instance", concurrency=1),
        organ("looks_plain", "looks_plain"),
        organ("seen", "seen"),
    )
    types = ["class", "class", "class_async", "class_async", "instance", "looks_plain", "seen"]
    result = await run(manager, batch(*[(name, {"p": 1}) for name in types]))
    assert [result.results[n] for n in range(5)] == [1, 2, 1, 2, 1]
    assert result.results[5] == {"awaited": {"p": 1}}
    assert result.results[6] == {
        "task_id": "task-6",
        "claim": 106,
        "attempt": 1,
        "type": "seen",
        "params": {"p": 1},
        "description": None,
        "domain": None,
        "drift_score": 0.0,
    }
    assert result.organs[6] == "seen"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, "wire version 99"),
        ({"claims": []}, "differ in length"),
        ({"types": 3}, "not a batch"),
    ],
)
async def test_a_batch_that_does_not_fit_is_refused_whole(change: dict[str, Any], words: str) -> None:
    manager = organism()
    with pytest.raises(ConfigurationError, match=words):
        await run(manager, {**batch(("echo", {})), **change})
    with pytest.raises(ConfigurationError, match="not a batch"):
        await anext(manager.handle_tasks({**{k: v for k, v in batch().items() if k != "ids"}}))


async def test_an_empty_batch_ends_at_once() -> None:
    assert (await run(organism(), batch())).chunks == [0], "one message, without which gRPC loses the answer"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"params": {}}, "type is missing"),
        ({"type": ""}, "type: "),
        ({"type": 3}, "type: "),
        ({"type": "echo", "parms": {}}, "parms is not a known field"),
        ({"type": "echo", "params": []}, "params: "),
        ({"type": "echo", "params": {"x": float("nan")}}, "params.x is NaN"),
        ({"type": "echo", "params": {"x": "\ud800"}}, "params.x contains a lone surrogate"),
        ({"type": "echo", "attempt": 0}, "attempt: "),
        ({"type": "echo", "timeout_s": 0}, "timeout_s: "),
        ({"type": "eco"}, "nearest known: echo"),
        ([], "task is a list"),
        (None, "task is a NoneType"),
    ],
)
async def test_a_bad_task_has_an_outcome_that_names_the_field(task: Any, words: str) -> None:
    outcome = await organism().handle_incoming_task(task)
    assert words in outcome["error"]
    assert outcome["success"] is False
    assert outcome["retryable"] is False


KEYS = {"task_id", "success", "result", "error", "retryable", "path", "organ_id", "elapsed_ms"}


async def test_one_task() -> None:
    manager = organism(organ("raise", "raise_plain"), organ("hang", "step", timeout_s=0.02))
    done = await manager.handle_incoming_task({"task_id": "t", "type": "echo", "params": {"n": 10**30}})
    assert set(done) == KEYS
    assert done["elapsed_ms"] > 0
    assert {**done, "elapsed_ms": 0} == {
        "task_id": "t",
        "success": True,
        "result": {"n": 10**30},
        "error": None,
        "retryable": False,
        "path": "fast",
        "organ_id": "basics",
        "elapsed_ms": 0,
    }
    failed = await manager.handle_incoming_task({"type": "raise", "params": {"what": "value_error"}})
    assert (failed["success"], failed["retryable"]) == (False, True)
    late = await manager.handle_incoming_task({"type": "hang", "params": {"name": "a"}})
    assert (late["success"], late["retryable"]) == (False, True)


@given(task=st.recursive(st.none() | st.text() | st.floats(), lambda i: st.dictionaries(st.text(), i)))
async def test_no_task_makes_it_raise(task: Any) -> None:
    manager = organism()
    for raw in (task, {"type": "echo", "params": task}, {"type": "echo", "params": {"x": task}}):
        assert set(await manager.handle_incoming_task(raw)) == KEYS


async def test_built_in_types_report_on_the_organism() -> None:
    manager = OrganismManager({"organs": []}, replica="r1")
    health = await manager.handle_incoming_task({"type": "health_check"})
    assert health["result"]["status"] == "healthy"
    assert health["result"]["organism_initialized"] is True
    assert health["result"]["replica"] == "r1"
    status = await manager.handle_incoming_task({"type": "get_organism_status"})
    assert "echo" in status["result"]["task_types"]


async def test_reconfiguration_is_live_and_keeps_what_it_can() -> None:
    manager = organism(organ("s", "step"), organ("counting", "Counting", concurrency=1))
    await run(manager, batch(("counting", {})))
    async with anyio.create_task_group() as group:
        group.start_soon(run, manager, batch(("s", {"name": "old"})))
        await misbehaviour.ARRIVALS.get()
        await manager.reconfigure(
            {"organs": [organ("counting", "Counting", concurrency=2)], "include_builtin": False}
        )
        assert manager.status()["task_types"] == ["counting"]
        assert manager.status()["config"]["organs"][0]["concurrency"] == 2
        misbehaviour.ALLOWED["old"].set()
    result = await run(manager, batch(("counting", {}), ("s", {})))
    assert result.results[0] == 2, "the handler of an organ that keeps its path is not made anew"
    assert result.causes[1] == "rejected"
    assert manager.status()["organs"]["counting"]["completed"] == 2


@pytest.mark.parametrize(
    "broken",
    [{"organs": [organ("a", "nothing_of_this_name")]}, {"organs": 3}, {"organs": [organ("a", "Broken")]}],
)
async def test_a_broken_configuration_leaves_the_old_one(broken: dict[str, Any]) -> None:
    manager = organism()
    with pytest.raises(ConfigurationError):
        await manager.reconfigure(broken)
    assert manager.health()["status"] == "degraded"
    assert manager.health()["refused_configuration"]
    await manager.check_health()
    assert (await run(manager, batch(("echo", {})))).causes[0] == "completed"
    await manager.reconfigure({"organs": []})
    assert manager.health()["status"] == "healthy"


async def test_without_a_configuration_it_says_so() -> None:
    manager = OrganismManager()
    assert manager.health()["organism_initialized"] is False
    with pytest.raises(ConfigurationError, match="no configuration"):
        await run(manager, batch(("echo", {})))
