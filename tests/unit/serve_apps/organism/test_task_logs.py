"""What a handler logs through its context, kept with its task."""

from __future__ import annotations

import logging
from collections import deque
from threading import Thread
from typing import Any

import pytest

from organism_flows.blocks.queue.wire import Outcomes
from organism_flows.serve_apps.organism.handler_api.log_lines import LOG_BYTES, LogLines
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism.helpers import batch, organ, organism

pytestmark = pytest.mark.anyio


async def logs(manager: OrganismManager, wire: dict[str, Any]) -> dict[int, str]:
    kept: dict[int, str] = {}
    async for outcomes in manager.handle_tasks(wire):
        kept |= Outcomes.from_wire(outcomes).logs
    return kept


@pytest.mark.parametrize("handler", ["with_context", "logs_and_fails"])
@pytest.mark.parametrize("processes", [False, True])
async def test_lines_come_with_the_outcome(handler: str, processes: bool) -> None:
    found = await logs(organism(organ("t", handler, processes=processes)), batch(("t", {}), ("ok", {})))
    assert list(found) == [100], "nothing of tasks that log nothing"
    assert found[100].splitlines()[0].endswith("INFO at work")


async def test_an_exception_is_kept_with_its_traceback() -> None:
    [text] = (await logs(organism(organ("t", "logs_and_fails")), batch(("t", {})))).values()
    assert "ERROR it went wrong" in text
    assert "ZeroDivisionError" in text
    assert "in logs_and_fails" in text


async def test_a_handler_that_times_out_leaves_its_lines() -> None:
    found = await logs(organism(organ("t", "logs_and_hangs")), batch(("t", {}, 0.2)))
    assert "INFO begun" in found[100]


def test_the_newest_lines_are_kept_and_no_more_than_fit() -> None:
    kept = LogLines()
    assert kept.text() is None
    for number in range(5000):
        kept.add(logging.INFO, "line %d ü", (number,), None)
    text = kept.text()
    assert text is not None
    assert text.endswith("line 4999 ü")
    assert "lines before these are not kept" in text.splitlines()[0]
    assert LOG_BYTES / 2 < len(text.encode()) < LOG_BYTES + 100


def test_any_line_can_be_stored() -> None:
    kept = LogLines()
    kept.add(logging.INFO, "a \x00 b \ud800", (), None)
    kept.add(logging.INFO, "%d", ("no number",), None)
    kept.add(logging.INFO, "ä" * 1_000_000, (), None)
    text = kept.text()
    assert text is not None
    assert "a \\x00 b \\ud800" in text
    assert "cannot be formatted: TypeError" in text
    assert len(text.encode()) < LOG_BYTES
    text.encode()


def test_threads_may_log_at_once() -> None:
    kept = LogLines()
    threads = [
        Thread(target=lambda: deque(map(kept.add, [20] * 300, ["x" * 50] * 300, [()] * 300, [None] * 300)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = kept.text()
    assert text is not None
    dropped = int(text.splitlines()[0][1:].split()[0])
    assert dropped + len(text.splitlines()) - 1 == 1200
