"""Every change of every task, recorded by Postgres itself, and the promises checked over it.

The queue under test cannot forget or embellish anything here: a trigger writes the rows.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from blocks.queue import FINISHED, Queue
from blocks.queue.inspection import DEFAULT_MAX_ATTEMPTS

INSTALL = """
CREATE TABLE IF NOT EXISTS test_history (
    number bigint GENERATED ALWAYS AS IDENTITY, task uuid, claim bigint, attempts int, old text, new text
);
TRUNCATE test_history;
CREATE OR REPLACE FUNCTION test_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO test_history (task, claim, attempts, old, new)
    VALUES (NEW.id, NEW.claim, NEW.attempts, OLD.status, NEW.status);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER test_history AFTER UPDATE ON tasks FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.claim <> NEW.claim) EXECUTE FUNCTION test_history();
"""


async def install_history(queue: Queue) -> None:
    """Begin to record."""
    await queue.pool.execute(INSTALL)


async def check_history(queue: Queue, submitted: list[str], evidence: Path | None = None) -> None:
    """Check promises 1 and 2 over everything that happened.

    Args:
        submitted: Ids of all tasks there should be.
        evidence: What handlers wrote themselves: lines of ``task claim pid``.
    """
    rows = await queue.pool.fetch("SELECT * FROM tasks")
    assert {str(row["id"]) for row in rows} == set(submitted), "a task was lost or invented"
    history: dict[Any, list[Any]] = defaultdict(list)
    for row in await queue.pool.fetch("SELECT * FROM test_history ORDER BY number"):
        history[row["task"]].append(row)
    for row in rows:
        changes = history[row["id"]]
        settlements = [c for c in changes if c["new"] in FINISHED]
        assert row["status"] in FINISHED, f"{row['id']} is still {row['status']}"
        assert len(settlements) == 1, f"{row['id']} was settled {len(settlements)} times"
        assert changes[-1] is settlements[0], f"{row['id']} changed after it was settled"
        claims = [c["claim"] for c in changes if c["new"] == "running"]
        assert claims == sorted(set(claims)), f"{row['id']}: claim tokens must grow: {claims}"
        assert settlements[0]["claim"] == claims[-1], f"{row['id']} was settled by a stale holder"
        assert 1 <= row["attempts"] <= (row["max_attempts"] or DEFAULT_MAX_ATTEMPTS)
    if evidence is not None:
        ran: dict[str, set[int]] = defaultdict(set)
        for line in evidence.read_text().splitlines():
            task, claim, _pid = line.split()
            assert int(claim) not in ran[task], f"{task} ran twice under one claim"
            ran[task].add(int(claim))
        for row in rows:
            if row["status"] == "completed":
                # At least once, and the accepted result is of a run that was seen.
                assert row["claim"] in ran[str(row["id"])], f"{row['id']} completed and never ran"
