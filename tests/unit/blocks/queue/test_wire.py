"""The messages between lanes and replicas hold the same on both ends, however they are packed on the way."""

from __future__ import annotations

import pickle
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from organism_flows.blocks.queue.wire import BATCH_COLUMNS, Batch, OutcomeRow, Outcomes
from organism_flows.blocks.task_report import Checkpoint

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["completed", "failed"]),
        st.sampled_from([None, "{}", "1"]),
        st.sampled_from([None, "ValueError"]),
        st.just("fast"),
        st.sampled_from([None, "organ"]),
        st.sampled_from([0.0, 1.5]),
        st.sampled_from([None, 0.0, 2.0]),
        st.sampled_from([None, "a release"]),
    ),
    max_size=6,
)
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "types": st.sampled_from(["a", "b"]),
    "timeouts": st.sampled_from([None, 1.0]),
    "suspicions": st.integers(0, 1),
    "reclaimed": st.booleans(),
    "checkpoints": st.sampled_from([None, Checkpoint(1, "{}")]),
}


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    count = draw(st.integers(0, 6))
    columns: list[Any] = [list(range(count)) for _ in BATCH_COLUMNS]
    made = Batch(*columns)
    for name, cell in CELLS.items():
        setattr(made, name, draw(st.lists(cell, min_size=count, max_size=count)))
    return made


def sent(wire: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = pickle.loads(pickle.dumps(wire))
    return read


@given(batches())
def test_a_batch_arrives_as_it_was_sent(batch: Batch) -> None:
    arrived = Batch.from_wire(sent(batch.to_wire()))
    assert arrived == batch
    assert all(isinstance(getattr(arrived, name), list) for name in BATCH_COLUMNS)


@given(ROWS)
def test_outcomes_arrive_as_they_were_sent(rows: list[OutcomeRow]) -> None:
    outcomes = Outcomes.of(rows)
    added = Outcomes()
    for row in rows:
        added.add(*row)
    assert outcomes == added
    assert Outcomes.from_wire(sent(outcomes.to_wire())) == outcomes


def test_a_column_of_equal_values_is_sent_as_one() -> None:
    columns: list[Any] = [[n] * 1000 for n, _ in enumerate(BATCH_COLUMNS)]
    assert len(pickle.dumps(Batch(*columns).to_wire())) < 1000


@given(batches(), st.data())
def test_consecutive_tasks_are_taken_like_any_others(batch: Batch, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(batch)))
    rows = range(start, data.draw(st.integers(start, len(batch))), data.draw(st.integers(1, 2)))
    assert batch.take(rows) == batch.take(list(rows))
