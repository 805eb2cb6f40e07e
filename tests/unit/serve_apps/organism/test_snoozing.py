"""Handlers that say "not now": by attributes of what they raise or return, in every form of handler."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from organism_flows import RetryAfter, WaitFor
from organism_flows.blocks.snooze import Snooze
from organism_flows.serve_apps.organism.handler_api.results import raised, returned, returned_by_batch
from organism_flows.serve_apps.organism.handler_api.snoozing import LONGEST_S
from tests.support.organism.helpers import batch, organ, organism, run

pytestmark = pytest.mark.anyio
DATE = datetime(2026, 10, 21, 7, 28, tzinfo=UTC)


class Busy(Exception):
    """Knows nothing of this project."""

    def __init__(self, retry_after: Any, **more: Any) -> None:
        self.retry_after = retry_after
        self.__dict__.update(more)
        super().__init__("429")


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (30, {"after_s": 30.0}),
        (0.5, {"after_s": 0.5}),
        (-3, {"after_s": 0.0}),
        (10**400, {"after_s": LONGEST_S}),
        ("120", {"after_s": 120.0}),
        (" 1.5 ", {"after_s": 1.5}),
        (timedelta(minutes=2), {"after_s": 120.0}),
        ("Wed, 21 Oct 2026 07:28:00 GMT", {"until": DATE.isoformat()}),
        (DATE, {"until": DATE.isoformat()}),
    ],
)
def test_seconds_dates_and_moments_are_understood(value: Any, asked: dict[str, Any]) -> None:
    result = raised(Busy(value))
    assert result.cause == "snoozed"
    assert result.error is not None
    assert result.error.startswith("Busy: 429")
    assert Snooze.from_json(result.result) == Snooze(**asked)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (WaitFor("approval"), {}),
        (WaitFor("approval", 60), {"after_s": 60.0}),
        (WaitFor("approval", timedelta(days=1), or_fail=True), {"after_s": 86400.0, "or_fail": True}),
        (WaitFor("approval", DATE), {"until": DATE.isoformat()}),
        (Busy(None, wait_for_event="approval"), {}),
        (Busy(3, wait_for_event="approval", closes="key"), {"after_s": 3.0, "closes": "key"}),
    ],
)
def test_a_wait_for_an_event_is_understood(error: Exception, asked: dict[str, Any]) -> None:
    result = raised(error)
    assert (result.cause, Snooze.from_json(result.result)) == ("snoozed", Snooze(event="approval", **asked))
    again = pickle.loads(pickle.dumps(error))
    assert raised(again).result == result.result


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a\0", "x" * 101, 7, ["approval"]])
def test_what_is_no_name_of_an_event_is_a_failure_that_says_so(name: Any) -> None:
    result = raised(WaitFor(name))
    assert result.cause == "failed"
    assert "not put off: wait_for_event is" in (result.error or "")
    assert "no name of an event: 1 to 100 letters, digits and _ . : -" in (result.error or "")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (Busy(float("nan")), "nan, not a number"),
        (Busy("soon"), "'soon', neither seconds nor an HTTP date"),
        (Busy(datetime(2026, 1, 1)), "no time zone"),
        (Busy(True), "a bool"),
        (Busy([1]), "a list"),
        (Busy(1, closes=7), "closes is 7"),
        (Busy(1, closes=""), "closes is ''"),
        (Busy(1, closes="a\0"), "closes is"),
        (Busy(1, closes="x" * 101), "closes is"),
    ],
)
def test_what_is_not_understood_is_a_failure_that_says_so(error: Busy, why: str) -> None:
    result = raised(error)
    assert result.cause == "failed"
    assert result.error is not None
    assert f"not put off: {'' if why.startswith('closes') else 'retry_after is '}" in result.error
    assert why in result.error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Busy(None), "failed"),
        (ValueError("x"), "failed"),
        (Busy(30, permanent=True), "rejected"),
        (ExceptionGroup("one", [Busy(30)]), "snoozed"),
        (ExceptionGroup("two", [Busy(30), ValueError("x")]), "failed"),
    ],
)
def test_other_errors_are_what_they_were(error: BaseException, cause: str) -> None:
    assert raised(error).cause == cause


def test_an_exception_that_is_returned_is_as_good_as_raised() -> None:
    assert returned(RetryAfter(3), 100) == raised(RetryAfter(3))
    causes = [one.cause for one in returned_by_batch([1, RetryAfter(3), ValueError("x")], 3, 100)]
    assert causes == ["completed", "snoozed", "failed"]


def test_the_class_for_convenience_survives_a_process_border() -> None:
    again = pickle.loads(pickle.dumps(RetryAfter("7", "busy", closes="api")))
    assert (again.retry_after, again.why, again.closes, str(again)) == ("7", "busy", "api", "busy")


def busy(task: dict[str, Any]) -> None:
    raise RetryAfter(task["params"]["after"], closes="key")


async def busy_async(task: dict[str, Any]) -> RetryAfter:
    return RetryAfter(task["params"]["after"], closes="key")


def busy_batch(tasks: list[dict[str, Any]]) -> list[Any]:
    return [RetryAfter(task["params"]["after"], closes="key") for task in tasks]


@pytest.mark.parametrize(
    ("handler", "more"),
    [("busy", {}), ("busy_async", {}), ("busy_batch", {"batch": True}), ("busy", {"processes": 1})],
)
async def test_every_form_of_handler_can_put_its_task_off(handler: str, more: dict[str, Any]) -> None:
    path = f"tests.unit.serve_apps.organism.test_snoozing:{handler}"
    manager = organism(organ("busy", path, **more))
    result = await run(manager, batch(("busy", {"after": 9}), ("busy", {"after": 8})))
    assert result.causes == {0: "snoozed", 1: "snoozed"}
    assert result.results[0] == asdict(Snooze(after_s=9, closes="key"))
    assert (result.errors[0] or "").startswith("RetryAfter: not now")
    outcome = await manager.handle_incoming_task({"type": "busy", "params": {"after": 5}})
    assert (outcome["success"], outcome["retryable"], outcome["result"]) == (False, True, None)
