"""Culprits among neighbours, through the whole stack: neighbours complete uncharged, the history says why."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from tests.support.history import check_history
from tests.support.sql import pool_of
from tests.support.stack import Stack

pytestmark = [pytest.mark.anyio, pytest.mark.stack]

ENDINGS = {
    ("culprit", "out of memory"): ("failed", "MemoryError"),
    ("culprit", "deadlock"): ("timed_out", "in misbehave"),
    ("culprit.async", "wait for ever"): ("timed_out", "timed out after 2 s"),
    ("culprit.async", "ignore cancellation"): ("timed_out", "timed out after 2 s"),
}


@pytest.fixture
def evidence(stack: Stack) -> Path:
    file = stack.home / f"evidence-{uuid4().hex}"
    file.touch()
    return file


async def dispatch(stack: Stack, queue: Queue, evidence: Path, culprits: list[NewTask]) -> list[str]:
    """Run the culprits among neighbours that take longer than it takes to start them all.

    Returns:
        The culprits' ids. The neighbours have completed, at their first attempt.
    """
    harmless = NewTask(type="evidence", params={"seconds": 0.3, "file": str(evidence)})
    ids = [str(i) for i in await queue.submit([harmless] * 10 + culprits + [harmless] * 10)]
    stack.run("dispatch", "--until-empty")
    await check_history(queue, ids, evidence)
    rest = await pool_of(queue).fetch("SELECT status::text, attempts FROM tasks WHERE type = 'evidence'")
    assert {(row["status"], row["attempts"]) for row in rest} == {("completed", 1)}
    return ids[10 : 10 + len(culprits)]


@pytest.mark.soak
async def test_what_goes_wrong_within_a_replica_is_charged_at_once(
    stack: Stack, stack_queue: Queue, evidence: Path
) -> None:
    culprits = [NewTask(type=kind, params={"how": how}, max_attempts=1) for kind, how in ENDINGS]
    blocks = {"how": "block the loop for a while", "seconds": 0, "file": str(evidence)}
    blocking = NewTask(type="culprit.async", params=blocks)
    ids = await dispatch(stack, stack_queue, evidence, [*culprits, blocking])
    for task_id, (cause, words) in zip(ids, ENDINGS.values(), strict=False):
        found = await stack_queue.get(task_id)
        assert (found.status, found.attempts, [a.cause for a in found.history]) == ("failed", 1, [cause])
        assert words in (found.error or "")
    assert (await stack_queue.get(ids[-1])).status == "completed"


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("culprit", "segfault"),
        pytest.param("culprit", "killed for memory", marks=pytest.mark.soak),
        # 40 s: Serve finds its replica out by three checks in a row.
        pytest.param("culprit.async", "block the loop", marks=pytest.mark.soak),
    ],
)
async def test_what_takes_its_replica_along_is_found(
    stack: Stack, stack_queue: Queue, evidence: Path, kind: str, how: str
) -> None:
    [task_id] = await dispatch(
        stack, stack_queue, evidence, [NewTask(type=kind, params={"how": how}, max_attempts=1)]
    )
    found = await stack_queue.get(task_id)
    assert (found.status, found.attempts) == ("failed", 1)
    causes = [a.cause for a in found.history]
    blocks = how == "block the loop"
    assert causes == ["replica_lost", "timed_out" if blocks else "failed"], "not charged before it ran alone"
    assert ("timed out after" if blocks else "the worker process died") in (found.error or "")
