"""`organism handlers check` says of each handler what a replica would make of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from organism_flows.deployments.cli.commands.release.handlers import check

pytestmark = pytest.mark.anyio

HANDLERS = """\
def plain(task): ...
async def waits(task): ...
def many(tasks): ...
async def yields(task): yield task
"""
CONFIG = """\
organs:
  - {id: plain, task_types: [a], handler: "checked_handlers:plain", concurrency: 3}
  - {id: waits, task_types: [b], handler: "checked_handlers:waits", domains: [x, y]}
  - {id: apart, task_types: [c], handler: "checked_handlers:many", processes: true, batch: true,
     concurrency: 2}
  - {id: wrong, task_types: [d], handler: "checked_handlers:yields"}
"""


async def test_it_shows_where_and_how_each_handler_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "checked_handlers.py").write_text(HANDLERS)
    (config := tmp_path / "organism.yaml").write_text(CONFIG)
    assert await check(config=config) == 1
    shown = capsys.readouterr().out
    assert "✓ plain: a → checked_handlers:plain (plain, in up to 3 threads)" in shown
    assert "✓ waits: b for x, y → checked_handlers:waits (async, up to " in shown
    assert "✓ apart: c → checked_handlers:many (plain, in up to 2 processes, in batches)" in shown
    assert "✗ organ 'wrong': handler 'checked_handlers:yields' cannot be used: a generator yields" in shown
    assert await check(config=config, as_json=True) == 1
    rows = {row["organ"]: row for row in json.loads(capsys.readouterr().out)["handlers"]}
    assert (rows["apart"]["runs"], rows["apart"]["batch"]) == ("in up to 2 processes", True)
    assert rows["wrong"]["ok"] is False
