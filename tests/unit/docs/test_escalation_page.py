"""docs/how-to/escalation.md does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from organism_flows.serve_apps.organism.config import load_config
from organism_flows.serve_apps.organism.manager import OrganismManager
from tests.support.organism.helpers import batch, run
from tests.support.page import Page

PAGE = Page("how-to/escalation.md")


@pytest.mark.anyio
async def test_every_example_has_the_outcome_the_page_shows(tmp_path: Path) -> None:
    PAGE.write(tmp_path, ("python", "my_agents.py"), ("yaml", "organism.yaml"))
    manager = OrganismManager(load_config(tmp_path / "organism.yaml"))
    lines = PAGE.block("text").splitlines()
    assert len(lines) == 2
    for line in lines:
        example = re.fullmatch(r"(\S+) (\S+) (\{.*\}) → (\S+) (\{.*\})", line)
        assert example is not None
        kind, score, params, path, expected = example.groups()
        wire = batch((kind, json.loads(params)))
        wire["drift_scores"] = [float(score)]
        result = await run(manager, wire)
        found = result.results[0]
        for step in found.get("steps", ()):
            assert step.pop("type")
            assert step.pop("elapsed_ms") > 0
        assert (result.paths[0], found) == (path, json.loads(expected))


@pytest.mark.anyio
async def test_scores_too_high_of_late_escalate_until_they_are_low_again(tmp_path: Path) -> None:
    PAGE.write(tmp_path, ("python", "my_agents.py"), ("yaml", "organism.yaml"))
    manager = OrganismManager(load_config(tmp_path / "organism.yaml"))
    wire = batch(*[("answer", {"question": "Tea"})] * 12)
    wire["drift_scores"] = [0.65] * 4 + [0.0] * 8
    result = await run(manager, wire)
    paths = [result.paths[n] for n in range(12)]
    # 0.4, 0.8, 1.2, 1.6, and then 0.25 less each time.
    assert paths == ["fast"] * 2 + ["escalated"] * 4 + ["fast"] * 6
