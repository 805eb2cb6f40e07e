"""Which tasks share a window: those of a type that one organ runs, as the lane learns from outcomes."""

from __future__ import annotations

import pytest

from organism_flows.blocks.queue import Batch, Outcomes
from organism_flows.flows.lanes import streams
from organism_flows.flows.lanes.streams import Streams
from organism_flows.flows.lanes.windows import Windows
from tests.support.flows.claimed_tasks import tasks


def ran(known: Streams, *places: tuple[str | None, str | None], kind: str = "t", path: str = "fast") -> None:
    """Tell which organs ran one task each of these domains."""
    batch, outcomes = Batch(types=[kind] * len(places), domains=[domain for domain, _ in places]), Outcomes()
    for position, (_, organ) in enumerate(places):
        outcomes.add(position, "completed", result="1", path=path, organ_id=organ)
    known.learn(batch, outcomes)


def test_a_domain_has_a_stream_of_its_own_until_its_organ_is_known() -> None:
    known = Streams()
    assert len({known.of("t", None), known.of("t", "a"), known.of("t", "b"), known.of("u", "a")}) == 4
    ran(known, (None, "x"))
    ran(known, ("a", "x"), ("b", "y"))
    assert known.of("t", "a") == known.of("t", None) == "t"
    assert known.of("t", "b") not in ("t", known.of("t", "c"))
    ran(known, ("c", "y"))
    assert known.of("t", "c") == known.of("t", "b")


def test_what_another_organ_runs_since_a_release_changes_its_stream() -> None:
    known = Streams()
    ran(known, (None, "x"), ("a", "x"))
    ran(known, ("a", "new"))
    assert known.of("t", "a") != known.of("t", None)


def test_an_escalated_task_says_nothing_of_its_domain() -> None:
    known = Streams()
    ran(known, ("a", "x"))
    before = known.of("t", "a")
    ran(known, ("a", "planner"), path="escalated")
    ran(known, ("a", None))
    assert known.of("t", "a") == before


def test_any_number_of_domains_is_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KNOWN_LIMIT", 100)
    known = Streams()
    for number in range(1000):
        ran(known, (str(number), "x"))
    assert len(known._organs) <= 100
    assert known.of("t", "999") == known.of("t", "998")


def test_tasks_in_flight_are_counted_where_they_began_although_their_stream_changed() -> None:
    windows = Windows(10, 1000)
    batch = tasks(["t"] * 4)
    batch.domains = [None, "a", "a", None]
    calls = windows.calls(batch)
    assert {stream for stream, _ in calls} == {"t", "t/a"}
    ran(windows.streams, (None, "x"), ("a", "x"))
    for stream, call in calls:
        windows.settled(stream, len(call))
    assert windows.in_flight == windows.window("t").in_flight == windows.window("t/a").in_flight == 0
    assert {stream for stream, _ in windows.calls(batch)} == {"t"}
